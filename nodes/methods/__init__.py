"""Nodes: what holds the picture, one per method."""

from ..host.api.sockets import io
from .direct_inversion import NMGDirectInversion
from .edit_friendly import NMGEditFriendly
from .negative_prompt import NMGNegativePrompt
from .noise_map import NMGGuidance
from .null_text import NMGNullText
from .plain import NMGPlainGuidance
from .proximal import NMGProximal

NODES: list[type[io.ComfyNode]] = [
    NMGGuidance,
    NMGPlainGuidance,
    NMGNullText,
    NMGNegativePrompt,
    NMGProximal,
    NMGDirectInversion,
    NMGEditFriendly,
]
