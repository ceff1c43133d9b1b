"""The nodes of the pack."""

from .demo import NMGDemoModel, NMGDemoPicture
from .editors.direction import NMGApplyDirection, NMGEditDirection
from .editors.masactrl import NMGMasaCtrl
from .editors.pix2pix_zero import NMGPix2PixZero
from .editors.prompt_to_prompt import NMGPromptToPrompt
from .editors.prompts import NMGPrompts
from .host.api.sockets import ComfyExtension, io
from .looks.attention_maps import NMGAttentionMaps
from .looks.difference import NMGDifference
from .looks.edit_region import NMGEditRegion
from .looks.reconstruction_check import NMGReconstructionCheck
from .looks.trajectory_preview import NMGTrajectoryPreview
from .methods.direct_inversion import NMGDirectInversion
from .methods.edit_friendly import NMGEditFriendly
from .methods.negative_prompt import NMGNegativePrompt
from .methods.noise_map import NMGGuidance
from .methods.null_text import NMGNullText
from .methods.plain import NMGPlainGuidance
from .methods.proximal import NMGProximal
from .path.custom_sampling import NMGGuider, NMGSampler
from .path.direction_files import NMGLoadDirection, NMGSaveDirection
from .path.gradient_memory import NMGGradientMemory
from .path.invert import NMGInvert
from .path.sample import NMGSample
from .path.sweep import NMGSweep
from .path.trajectory_files import NMGLoadTrajectory, NMGSaveTrajectory
from .pixels.composite import NMGCompositeOriginal
from .pixels.padding import NMGCropPadding, NMGPadToGrid

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
