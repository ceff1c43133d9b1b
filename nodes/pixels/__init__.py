"""Nodes: pictures of any size through the latent and back."""

from ..host.api.sockets import io
from .composite import NMGCompositeOriginal
from .padding import NMGCropPadding, NMGPadToGrid

NODES: list[type[io.ComfyNode]] = [
    NMGPadToGrid,
    NMGCropPadding,
    NMGCompositeOriginal,
]
