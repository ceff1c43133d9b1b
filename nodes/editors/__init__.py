"""Nodes: what couples an edit to its source, one per editor."""

from ..host.api.sockets import io
from .direction import NMGApplyDirection, NMGEditDirection
from .masactrl import NMGMasaCtrl
from .pix2pix_zero import NMGPix2PixZero
from .prompt_to_prompt import NMGPromptToPrompt
from .prompts import NMGPrompts

NODES: list[type[io.ComfyNode]] = [
    NMGPromptToPrompt,
    NMGMasaCtrl,
    NMGPix2PixZero,
    NMGEditDirection,
    NMGApplyDirection,
    NMGPrompts,
]
