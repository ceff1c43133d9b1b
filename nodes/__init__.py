"""The nodes of the pack."""

from .demo import NMGDemoModel, NMGDemoPicture
from .files import NMGLoadTrajectory, NMGSaveTrajectory
from .guidance import NMGGuidance
from .host.sockets import ComfyExtension, io
from .invert import NMGInvert
from .masactrl import NMGMasaCtrl
from .prompt_to_prompt import NMGPromptToPrompt
from .prompts import NMGPrompts
from .sample import NMGSample

NODES: list[type[io.ComfyNode]] = [
    NMGInvert,
    NMGSample,
    NMGGuidance,
    NMGPromptToPrompt,
    NMGMasaCtrl,
    NMGPrompts,
    NMGSaveTrajectory,
    NMGLoadTrajectory,
    NMGDemoModel,
    NMGDemoPicture,
]


class NoiseMapGuidanceExtension(ComfyExtension):
    """What the host asks a pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
