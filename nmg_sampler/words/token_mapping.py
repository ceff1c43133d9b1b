"""Source columns to target columns, token by token, word by word, and around the words."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from .prompt import TokenizedPrompt, Word


class TokenMapping:
    """An alignment in the making; at first everything is copied, from nowhere.

    Attributes:
        source, target: the prompts, S and T columns.
        mapping: (S, T) float32, see `Alignment`.
        copied: (T,) float32, see `Alignment`.
    """

    def __init__(self, source: TokenizedPrompt, target: TokenizedPrompt) -> None:
        self.source, self.target = source, target
        self.mapping = torch.zeros(len(source.ids), len(target.ids))
        self.copied = torch.ones(len(target.ids))

    def pair(self, pairs: Iterable[tuple[int, int]], share: float = 1.0) -> None:
        """Adds `share` of source column i to target column j."""
        for i, j in pairs:
            self.mapping[i, j] += share

    def spread(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Column by column if there are equally many, else every old one evenly over the new."""
        if len(old) == len(new):
            self.pair(zip(old, new, strict=True))
        else:
            self.pair(((i, j) for i in old for j in new), 1 / len(new))

    def match(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Equal tokens in their order; the other target columns keep their own map."""
        ids = [self.source.ids[i] for i in old], [self.target.ids[j] for j in new]
        matches = _global_alignment(*ids)
        self.pair((old[a], new[b]) for a, b in matches)
        taken = {b for _, b in matches}
        self.add(column for b, column in enumerate(new) if b not in taken)

    def add(self, columns: Iterable[int]) -> None:
        """Target columns that the source has nothing for: they keep their own map."""
        self.copied[list(columns)] = 0

    def replace(self, old: Word, new: Word) -> None:
        """A word by a word, with nothing added: punctuation is copied as well."""
        marks = [self.source.ids[i] for i in old.marks], [self.target.ids[j] for j in new.marks]
        if marks[0] == marks[1]:
            self.spread(old.columns, new.columns)
            self.spread(old.marks, new.marks)
        else:
            self.spread(old.tokens, new.tokens)

    def replace_group(self, old: Sequence[Word], new: Sequence[Word]) -> None:
        """Words by words: one by one if there are equally many, else all by all."""
        if len(old) == len(new) > 1:
            for pair in zip(old, new, strict=True):
                self.replace_group(pair[:1], pair[1:])
            return
        self.spread(*([c for word in words for c in word.columns] for words in (old, new)))
        self.match(*([c for word in words for c in word.marks] for words in (old, new)))

    def frame(self) -> None:
        """Begin to begin, end to end, padding to padding, chunk by chunk.

        Begin tokens draw most of the attention. Where one prompt has more chunks, its last ones
        share (or add up) what the other's last one has, so that none of it is doubled or lost.
        """
        old, new = self.source.frames, self.target.frames
        last = min(len(old), len(new)) - 1
        groups = [((old[k],), (new[k],)) for k in range(last)] + [(old[last:], new[last:])]
        for sources, targets in groups:
            for one in sources:
                for other in targets:
                    for i, j, share in _frame_shares(one, other):
                        self.pair([(i, j)], share / len(targets))


def _frame_shares(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """(source column, target column, share) of what surrounds the words in one chunk each."""
    (begin, end, *padding), (begin_to, end_to, *padding_to) = old, new
    yield begin, begin_to, 1
    if not padding:
        # A full chunk. Its end token gets more attention than padding does: not for each of them.
        yield from ((end, column, 1 / len(new[1:])) for column in new[1:])
        return
    yield end, end_to, 1
    for column in padding_to:
        # By its place, which its embedding encodes. Where the source has a word at that place, the
        # nearest padding stands in.
        place = begin + column - begin_to
        yield min(max(place, padding[0]), padding[-1]), column, 1


def _global_alignment(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int]]:
    """Needleman and Wunsch: index pairs of equal tokens; gap 0, match 1, mismatch -1.

    Of equally good ways the one with an added token comes first, then one with a removed token, as
    in the published code. A mismatch is worse than two gaps, so no pair is unequal.
    """
    best = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, token in enumerate(old):
        for j, other in enumerate(new):
            diagonal = best[i][j] + (1 if token == other else -1)
            best[i + 1][j + 1] = max(best[i + 1][j], best[i][j + 1], diagonal)
    pairs = []
    i, j = len(old), len(new)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
