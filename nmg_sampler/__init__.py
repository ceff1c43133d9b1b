"""Inversion and Noise Map Guidance on tensors alone: no host, no bar, no state, no global seed.

Space: a state is x = alpha * x0 + sigma * eps at a `NoiseLevel`, shape (B, C, ...), in the model's
own latent space. Levels are Python floats (float64). The library keeps the dtype and device it is
given; a trajectory lives on the CPU. Random numbers come from a generator that is given.

The rooms, from the ground up: trajectory, words, contract, then loops, methods, editors and looks;
pixels and files beside them. What is public stands in a room's own list or in this one.
"""

from .contract import DDIM as DDIM
from .contract import Attends as Attends
from .contract import AttentionCall as AttentionCall
from .contract import AttentionEdit as AttentionEdit
from .contract import AttentionLayer as AttentionLayer
from .contract import Branches as Branches
from .contract import Editor as Editor
from .contract import EditorRun as EditorRun
from .contract import Guidance as Guidance
from .contract import Guided as Guided
from .contract import GuidedRun as GuidedRun
from .contract import Half as Half
from .contract import PlainGuidance as PlainGuidance
from .contract import Predictor as Predictor
from .contract import Prompt as Prompt
from .contract import PromptEmbedding as PromptEmbedding
from .contract import Request as Request
from .contract import Rows as Rows
from .contract import Run as Run
from .contract import Solver as Solver
from .contract import SolverRun as SolverRun
from .contract import StepEvent as StepEvent
from .contract import UNetPlace as UNetPlace
from .editors import Counting as Counting
from .editors import EditDirection as EditDirection
from .editors import Halves as Halves
from .editors import LocalBlend as LocalBlend
from .editors import MasaCtrl as MasaCtrl
from .editors import Pix2PixZero as Pix2PixZero
from .editors import PromptEdit as PromptEdit
from .editors import PromptToPrompt as PromptToPrompt
from .editors import SentenceEmbedding as SentenceEmbedding
from .editors import mean_difference as mean_difference
from .errors import InvalidInput as InvalidInput
from .errors import NMGError as NMGError
from .errors import NotDifferentiable as NotDifferentiable
from .errors import NotFinite as NotFinite
from .errors import TrajectoryMismatch as TrajectoryMismatch
from .files import load_direction as load_direction
from .files import load_trajectory as load_trajectory
from .files import save_direction as save_direction
from .files import save_trajectory as save_trajectory
from .looks import edit_region as edit_region
from .looks import word_maps as word_maps
from .loops import HeldPrediction as HeldPrediction
from .loops import Midpoint as Midpoint
from .loops import Sampled as Sampled
from .loops import invert as invert
from .loops import sample as sample
from .methods import DirectInversion as DirectInversion
from .methods import EditFriendly as EditFriendly
from .methods import FlowEdit as FlowEdit
from .methods import Gradient as Gradient
from .methods import Loss as Loss
from .methods import Mode as Mode
from .methods import NegativePromptGuidance as NegativePromptGuidance
from .methods import NoiseMapGuidance as NoiseMapGuidance
from .methods import NoiseRegularization as NoiseRegularization
from .methods import NullTextGuidance as NullTextGuidance
from .methods import NullTextSettings as NullTextSettings
from .methods import ProximalGuidance as ProximalGuidance
from .methods import Reference as Reference
from .methods import Threshold as Threshold
from .methods import UpdateEvent as UpdateEvent
from .methods import energy as energy
from .methods import fused_guidance as fused_guidance
from .methods import invert_edit_friendly as invert_edit_friendly
from .methods import official_guidance as official_guidance
from .methods import optimise_null_text as optimise_null_text
from .trajectory import Family as Family
from .trajectory import Kind as Kind
from .trajectory import ModelIdentity as ModelIdentity
from .trajectory import NoiseLevel as NoiseLevel
from .trajectory import Schedule as Schedule
from .trajectory import Step as Step
from .trajectory import Trajectory as Trajectory
from .trajectory import evenly_spaced_schedule as evenly_spaced_schedule
from .trajectory import official_masactrl_schedule as official_masactrl_schedule
from .trajectory import official_schedule as official_schedule
from .trajectory import schedule_from_sigmas as schedule_from_sigmas
from .words import Alignment as Alignment
from .words import AlignmentMode as AlignmentMode
from .words import TokenizedPrompt as TokenizedPrompt
from .words import Word as Word
from .words import align as align
