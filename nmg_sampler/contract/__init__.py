"""What plugs into what: a network, a method, an editor, and what a run tells of itself."""

from .attention import AttentionCall as AttentionCall
from .attention import AttentionEdit as AttentionEdit
from .attention import AttentionLayer as AttentionLayer
from .attention import apply_probabilities as apply_probabilities
from .attention import probabilities as probabilities
from .attention import shows_words as shows_words
from .attention import split_heads as split_heads
from .branches import Branches as Branches
from .branches import Rows as Rows
from .editor import Editor as Editor
from .editor import EditorRun as EditorRun
from .events import StepEvent as StepEvent
from .guidance import STEP_NOISE as STEP_NOISE
from .guidance import Guidance as Guidance
from .guidance import GuidedRun as GuidedRun
from .guidance import PlainGuidance as PlainGuidance
from .guidance import Prepared as Prepared
from .guidance import Run as Run
from .guidance import check_text_scale as check_text_scale
from .predictor import Guided as Guided
from .predictor import Predictor as Predictor
from .predictor import Prompt as Prompt
from .predictor import PromptEmbedding as PromptEmbedding
