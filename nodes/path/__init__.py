"""Nodes: the way of a picture, from inversion to sampling, and the files on it."""

from ..host.api.sockets import io
from .custom_sampling import NMGGuider, NMGSampler
from .direction_files import NMGLoadDirection, NMGSaveDirection
from .gradient_memory import NMGGradientMemory
from .invert import NMGInvert
from .sample import NMGSample
from .sweep import NMGSweep
from .trajectory_files import NMGLoadTrajectory, NMGSaveTrajectory

NODES: list[type[io.ComfyNode]] = [
    NMGInvert,
    NMGSample,
    NMGGuider,
    NMGSampler,
    NMGSweep,
    NMGGradientMemory,
    NMGSaveTrajectory,
    NMGLoadTrajectory,
    NMGSaveDirection,
    NMGLoadDirection,
]
