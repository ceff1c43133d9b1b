"""What a prompt is to attention: tokens, words, and how two prompts find each other."""

from .alignment import Alignment as Alignment
from .alignment import AlignmentMode as AlignmentMode
from .alignment import align as align
from .alignment_summary import summarise as summarise
from .cutting import Atom as Atom
from .cutting import cut as cut
from .cutting import join as join
from .finding import find as find
from .finding import find_each as find_each
from .lines import each as each
from .lines import lines as lines
from .lines import sentences as sentences
from .prompt import TokenizedPrompt as TokenizedPrompt
from .prompt import Word as Word
from .prompt import from_plain as from_plain
from .prompt import is_punctuation as is_punctuation
from .prompt import normalised as normalised
from .prompt import to_plain as to_plain
from .settings import blend_columns as blend_columns
from .settings import parse_pairs as parse_pairs
from .settings import self_steps as self_steps
from .settings import word_schedule as word_schedule
from .settings import word_weights as word_weights
from .token_mapping import TokenMapping as TokenMapping
