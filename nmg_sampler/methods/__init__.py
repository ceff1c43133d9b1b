"""One file per paper: how a step is held to the picture."""

from ..contract.guidance import Guidance, PlainGuidance
from .direct_inversion import DirectInversion as DirectInversion
from .edit_friendly import STEP_NOISE as STEP_NOISE
from .edit_friendly import EditFriendly as EditFriendly
from .edit_friendly import ddpm_step as ddpm_step
from .edit_friendly import invert_edit_friendly as invert_edit_friendly
from .edit_friendly import skip_noisiest as skip_noisiest
from .energy import REFERENCE_ELEMENTS as REFERENCE_ELEMENTS
from .energy import SMOOTH_L1_BETA as SMOOTH_L1_BETA
from .energy import Loss as Loss
from .energy import energy as energy
from .energy import energy_slope as energy_slope
from .flow_edit import FlowEdit as FlowEdit
from .negative_prompt import NegativePromptGuidance as NegativePromptGuidance
from .negative_prompt import interpolate_embeddings as interpolate_embeddings
from .noise_map import Gradient as Gradient
from .noise_map import Mode as Mode
from .noise_map import NoiseMapGuidance as NoiseMapGuidance
from .noise_map import Reference as Reference
from .noise_map import fused_guidance as fused_guidance
from .noise_map import official_guidance as official_guidance
from .null_text import NullTextGuidance as NullTextGuidance
from .null_text import NullTextSettings as NullTextSettings
from .null_text_optimisation import UpdateEvent as UpdateEvent
from .null_text_optimisation import optimise_null_text as optimise_null_text
from .proximal import ProximalGuidance as ProximalGuidance
from .proximal import Threshold as Threshold
from .regularization import NoiseRegularization as NoiseRegularization
from .regularization import auto_correlation as auto_correlation
from .regularization import auto_correlation_gradient as auto_correlation_gradient
from .regularization import draw_shifts as draw_shifts
from .regularization import kl_divergence as kl_divergence
from .regularization import kl_gradient as kl_gradient
from .sweep import MOST_CELLS as MOST_CELLS
from .sweep import Setting as Setting
from .sweep import Swept as Swept
from .sweep import parameters_of as parameters_of
from .sweep import parse_values as parse_values
from .sweep import sweep_parameters as sweep_parameters
from .sweep import sweep_settings as sweep_settings

# What a run can be held by, in the order of the menus that offer them.
METHODS: tuple[type[Guidance], ...] = (
    NoiseMapGuidance,
    PlainGuidance,
    DirectInversion,
    EditFriendly,
    NegativePromptGuidance,
    NullTextGuidance,
    ProximalGuidance,
)
