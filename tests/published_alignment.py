"""The word replacement of Prompt-to-Prompt's published code, with its defect."""

from nmg_sampler import Alignment, align
from nmg_sampler.words import TokenMapping, summarise


def official_replacement(source, target):
    """`replace` as published.

    After the last changed word it maps column j to column j although the tokens have moved, and
    stops where the first of the two prompts ends. Words are changed if they are spelt differently.

    Raises:
        InvalidInput: the numbers of words differ.
    """
    align(source, target, "replace")  # refuses them
    draft = TokenMapping(source, target)
    i = j = 0
    for old, new in zip(source.words, target.words, strict=True):
        if old.text == new.text:
            continue
        ahead = old.tokens[0] - i
        draft.pair(zip(range(i, i + ahead), range(j, j + ahead), strict=True))
        draft.spread(old.tokens, new.tokens)
        i, j = old.tokens[-1] + 1, new.tokens[-1] + 1
    rest = min(len(source.ids) - i, len(target.ids) - j)
    draft.pair(zip(range(j, j + rest), range(j, j + rest), strict=True))
    parts = draft.source, draft.target, draft.mapping, draft.copied
    return Alignment(draft.mapping, draft.copied, summarise(*parts))
