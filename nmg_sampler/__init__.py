"""Inversion and Noise Map Guidance on tensors alone: no host, no bar, no state, no global seed.

Space: a state is x = alpha * x0 + sigma * eps at a `NoiseLevel`, shape (B, C, ...), in the model's
own latent space. Levels are Python floats (float64). The library keeps the dtype and device it is
given; a trajectory lives on the CPU. Random numbers come from a generator that is given.
"""

from .alignment import Alignment as Alignment
from .alignment import AlignmentMode as AlignmentMode
from .alignment import align as align
from .attention import AttentionCall as AttentionCall
from .attention import AttentionEdit as AttentionEdit
from .attention import AttentionLayer as AttentionLayer
from .attention_maps import word_maps as word_maps
from .branches import Branches as Branches
from .branches import Rows as Rows
from .direct_inversion import DirectInversion as DirectInversion
from .direction import EditDirection as EditDirection
from .direction import SentenceEmbedding as SentenceEmbedding
from .direction import load_direction as load_direction
from .direction import mean_difference as mean_difference
from .direction import save_direction as save_direction
from .editor import Editor as Editor
from .editor import EditorRun as EditorRun
from .energy import Loss as Loss
from .energy import energy as energy
from .errors import InvalidInput as InvalidInput
from .errors import NMGError as NMGError
from .errors import NotDifferentiable as NotDifferentiable
from .errors import NotFinite as NotFinite
from .errors import TrajectoryMismatch as TrajectoryMismatch
from .events import StepEvent as StepEvent
from .guidance import Guidance as Guidance
from .guidance import GuidedRun as GuidedRun
from .guidance import PlainGuidance as PlainGuidance
from .guidance import Prepared as Prepared
from .guidance import Run as Run
from .inversion import invert as invert
from .levels import Family as Family
from .levels import NoiseLevel as NoiseLevel
from .local_blend import LocalBlend as LocalBlend
from .masactrl import MasaCtrl as MasaCtrl
from .masactrl_layers import Counting as Counting
from .negative_prompt import NegativePromptGuidance as NegativePromptGuidance
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
from .pix2pix_zero import Halves as Halves
from .pix2pix_zero import Pix2PixZero as Pix2PixZero
from .predictor import Guided as Guided
from .predictor import Predictor as Predictor
from .predictor import Prompt as Prompt
from .predictor import PromptEmbedding as PromptEmbedding
from .prompt_edit import PromptEdit as PromptEdit
from .prompt_to_prompt import PromptToPrompt as PromptToPrompt
from .prompts import TokenizedPrompt as TokenizedPrompt
from .prompts import Word as Word
from .proximal import ProximalGuidance as ProximalGuidance
from .proximal import Threshold as Threshold
from .regularization import NoiseRegularization as NoiseRegularization
from .sampling import Sampled as Sampled
from .sampling import sample as sample
from .schedule import Schedule as Schedule
from .schedule import Step as Step
from .schedule import official_masactrl_schedule as official_masactrl_schedule
from .schedule import official_schedule as official_schedule
from .schedule import schedule_from_sigmas as schedule_from_sigmas
from .trajectory import ModelIdentity as ModelIdentity
from .trajectory import Trajectory as Trajectory
from .trajectory_file import load_trajectory as load_trajectory
from .trajectory_file import save_trajectory as save_trajectory
