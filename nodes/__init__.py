"""The nodes of the pack: each room lists its own."""

from .demo import NODES as DEMO
from .editors import NODES as EDITORS
from .host.api.sockets import ComfyExtension, io
from .looks import NODES as LOOKS
from .methods import NODES as METHODS
from .path import NODES as PATH
from .pixels import NODES as PIXELS

NODES: list[type[io.ComfyNode]] = [*PATH, *METHODS, *EDITORS, *LOOKS, *PIXELS, *DEMO]


class NoiseMapGuidanceExtension(ComfyExtension):
    """What the host asks a pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
