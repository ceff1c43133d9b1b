"""Nodes: what a trajectory or a pair of pictures shows."""

from ..host.api.sockets import io
from .attention_maps import NMGAttentionMaps
from .difference import NMGDifference
from .edit_region import NMGEditRegion
from .reconstruction_check import NMGReconstructionCheck
from .trajectory_preview import NMGTrajectoryPreview

NODES: list[type[io.ComfyNode]] = [
    NMGAttentionMaps,
    NMGEditRegion,
    NMGReconstructionCheck,
    NMGTrajectoryPreview,
    NMGDifference,
]
