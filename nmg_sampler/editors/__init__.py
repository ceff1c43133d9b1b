"""One file per paper: how an edit takes from the source through attention."""

from .attention_distance import AttentionDistance as AttentionDistance
from .attention_distance import SourceAttention as SourceAttention
from .attention_distance import map_bytes as map_bytes
from .direction import EditDirection as EditDirection
from .direction import SentenceEmbedding as SentenceEmbedding
from .direction import mean_difference as mean_difference
from .local_blend import BlendRun as BlendRun
from .local_blend import LocalBlend as LocalBlend
from .masactrl import MasaCtrl as MasaCtrl
from .masactrl_layers import Counting as Counting
from .masactrl_layers import is_reached as is_reached
from .masactrl_masks import ObjectMaps as ObjectMaps
from .masactrl_masks import Regions as Regions
from .masactrl_masks import mutual_attention as mutual_attention
from .masactrl_masks import rows_of_edits as rows_of_edits
from .pix2pix_zero import Halves as Halves
from .pix2pix_zero import Pix2PixZero as Pix2PixZero
from .prompt_edit import EditedMaps as EditedMaps
from .prompt_edit import PromptEdit as PromptEdit
from .prompt_to_prompt import PromptToPrompt as PromptToPrompt
from .prompt_to_prompt_settings import PromptToPromptSettings as PromptToPromptSettings
