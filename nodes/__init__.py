"""The nodes of the pack."""

from .attention_maps import NMGAttentionMaps
from .composite import NMGCompositeOriginal
from .custom_sampling import NMGGuider, NMGSampler
from .demo import NMGDemoModel, NMGDemoPicture
from .difference import NMGDifference
from .direct_inversion import NMGDirectInversion
from .direction import NMGApplyDirection, NMGEditDirection, NMGLoadDirection, NMGSaveDirection
from .edit_friendly import NMGEditFriendly
from .edit_region import NMGEditRegion
from .files import NMGLoadTrajectory, NMGSaveTrajectory
from .gradient_memory import NMGGradientMemory
from .guidance import NMGGuidance
from .host.sockets import ComfyExtension, io
from .invert import NMGInvert
from .masactrl import NMGMasaCtrl
from .negative_prompt import NMGNegativePrompt
from .null_text import NMGNullText
from .padding import NMGCropPadding, NMGPadToGrid
from .pix2pix_zero import NMGPix2PixZero
from .plain import NMGPlainGuidance
from .prompt_to_prompt import NMGPromptToPrompt
from .prompts import NMGPrompts
from .proximal import NMGProximal
from .reconstruction_check import NMGReconstructionCheck
from .sample import NMGSample
from .sweep import NMGSweep
from .trajectory_preview import NMGTrajectoryPreview

NODES: list[type[io.ComfyNode]] = [
    NMGInvert,
    NMGSample,
    NMGGuider,
    NMGSampler,
    NMGGuidance,
    NMGPlainGuidance,
    NMGNullText,
    NMGNegativePrompt,
    NMGProximal,
    NMGDirectInversion,
    NMGEditFriendly,
    NMGPromptToPrompt,
    NMGMasaCtrl,
    NMGPix2PixZero,
    NMGEditDirection,
    NMGApplyDirection,
    NMGPrompts,
    NMGAttentionMaps,
    NMGEditRegion,
    NMGPadToGrid,
    NMGCropPadding,
    NMGCompositeOriginal,
    NMGSaveTrajectory,
    NMGLoadTrajectory,
    NMGSaveDirection,
    NMGLoadDirection,
    NMGSweep,
    NMGReconstructionCheck,
    NMGGradientMemory,
    NMGTrajectoryPreview,
    NMGDifference,
    NMGDemoModel,
    NMGDemoPicture,
]


class NoiseMapGuidanceExtension(ComfyExtension):
    """What the host asks a pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
