"""Which column of the source's attention map becomes which column of the target's.

Replace and refine of Prompt-to-Prompt, arXiv 2208.01626, and a mode of ours by words. All are of
one form: with the maps A_s (..., S) and A_t (..., T) the edited map is

    F = (A_s @ mapping) * copied + A_t * (1 - copied)

Nothing is renormalised, so a mapping keeps the attention that a source token gets: what is shared
out among several target tokens adds up to it.
"""

from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum

import torch

from .. import checks
from ..errors import InvalidInput
from .alignment_summary import summarise
from .prompt import TokenizedPrompt
from .token_mapping import TokenMapping


class AlignmentMode(str, Enum):
    """How words find each other.

    `auto`: by a comparison word by word; groups of any length replace each other (ours).
    `replace`: the n-th word by the n-th word. `refine`: equal tokens in their order.
    """

    AUTO = "auto"
    REPLACE = "replace"
    REFINE = "refine"


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the columns of a target prompt's attention map come from.

    Attributes:
        mapping: (S, T) float32, share of each source column that each target column takes.
        copied: (T,) float32 in 0..1, 1 where the target column is taken from the source.
        summary: in plain words, such as "cat -> tiger; added smiling (2 tokens)".
    """

    mapping: torch.Tensor
    copied: torch.Tensor
    summary: str


def align(source: TokenizedPrompt, target: TokenizedPrompt, mode: AlignmentMode | str) -> Alignment:
    """The alignment of two prompts; of a prompt with itself the identity, in every mode.

    Args:
        source: prompt of the picture as it is, S columns.
        target: prompt of the picture as it is to be, T columns.
        mode: see `AlignmentMode`.

    Raises:
        InvalidInput: the mode is unknown, or "replace" is asked for with unequal numbers of words.
    """
    mode = checks.choice("mode", mode, AlignmentMode)
    draft = TokenMapping(source, target)
    draft.frame()
    if mode is AlignmentMode.REPLACE:
        _check_counts(source, target)
        for pair in zip(source.words, target.words, strict=True):
            draft.replace(*pair)
    elif mode is AlignmentMode.REFINE:
        draft.match(source.tokens, target.tokens)
    else:
        _compare(draft)
    return _finished(draft)


def _finished(draft: TokenMapping) -> Alignment:
    parts = draft.source, draft.target, draft.mapping, draft.copied
    return Alignment(draft.mapping, draft.copied, summarise(*parts))


def _check_counts(source: TokenizedPrompt, target: TokenizedPrompt) -> None:
    counts = len(source.words), len(target.words)
    if counts[0] != counts[1]:
        raise InvalidInput.of(
            "mode",
            "'replace' needs as many words in the target prompt as in the source prompt",
            f"{counts[0]} words in the source prompt and {counts[1]} in the target prompt",
            "equal numbers",
            "Use mode 'auto', or word the prompts alike.",
        )


def _compare(draft: TokenMapping) -> None:
    """Fills in what a comparison word by word finds equal, replaced, added; removed is left out."""
    old, new = draft.source.words, draft.target.words
    names = [word.name for word in old], [word.name for word in new]
    matcher = SequenceMatcher(None, *names, autojunk=False)
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        if kind == "insert":
            draft.add(column for word in new[j:j_end] for column in word.tokens)
        elif kind != "delete":
            draft.replace_group(old[i:i_end], new[j:j_end])
