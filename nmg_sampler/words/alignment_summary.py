"""An alignment of two prompts in plain words, read off its numbers."""

from collections.abc import Iterable

import torch

from .prompt import TokenizedPrompt, Word
from .scripts import spoken


def summarise(
    source: TokenizedPrompt, target: TokenizedPrompt, mapping: torch.Tensor, copied: torch.Tensor
) -> str:
    """Such as "cat -> tiger; added smiling (2 tokens); removed big", or "nothing changed".

    Args:
        source: S columns.
        target: T columns.
        mapping: (S, T), see `Alignment`.
        copied: (T,), see `Alignment`.
    """
    added = [word for word in target.words if not copied[list(word.columns)].all()]
    tokens = int((copied == 0).sum())
    parts = _replacements(source, target, mapping, added)
    if tokens:
        what = _listed(added) or "punctuation"
        parts.append(f"added {what} ({tokens} token{'s' * (tokens != 1)})")
    removed = [word for word in source.words if not mapping[list(word.columns)].any()]
    if removed:
        parts.append(f"removed {_listed(removed)}")
    return "; ".join(parts) or "nothing changed"


def _replacements(
    source: TokenizedPrompt, target: TokenizedPrompt, mapping: torch.Tensor, added: list[Word]
) -> list[str]:
    """ "cat -> tiger" for each group of target words with the map of other source words."""
    groups: list[tuple[list[Word], list[Word]]] = []
    for word in target.words:
        columns = list(word.columns)
        origins = [old for old in source.words if mapping[list(old.columns)][:, columns].any()]
        if word in added or not origins or [old.name for old in origins] == [word.name]:
            continue
        if groups and groups[-1][0] == origins:
            groups[-1][1].append(word)
        else:
            groups.append((origins, [word]))
    return [f"{_phrase(old)} -> {_phrase(new)}" for old, new in groups]


def _phrase(words: Iterable[Word]) -> str:
    return spoken([word.name for word in words])


def _listed(words: Iterable[Word]) -> str:
    return ", ".join(word.name for word in words)
