"""Where words look: cross-attention of their embedding columns, added up over layers and steps."""

from collections.abc import Sequence

import torch

Columns = tuple[int, ...]  # embedding columns of the tokens of a word or of several


class ColumnMaps:
    """The sum of cross-attention maps, kept for chosen columns only.

    Its size does not grow with layers, heads or steps.

    Args:
        words: the columns of each.

    Attributes:
        total: (words, rows, height, width): the mean over heads, summed over a word's columns and
            over the layers so far; None before the first.
    """

    def __init__(self, words: Sequence[Columns]) -> None:
        self.words = tuple(words)
        self.total: torch.Tensor | None = None
        self._count = 0

    def add(self, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> None:
        """One layer's maps; those of all calls have the same rows and size.

        Args:
            maps: for each word that of its prompt: probabilities (rows, heads, height * width,
                columns), or their mean over heads (rows, height * width, columns).
            size: (height, width) of the layer's cells.
        """
        found = [
            map_[..., list(columns)].sum(-1) for map_, columns in zip(maps, self.words, strict=True)
        ]
        cells = torch.stack([each.mean(1) if each.ndim == 3 else each for each in found])
        added = cells.unflatten(-1, size)
        self.total = added if self.total is None else self.total + added
        self._count += 1

    def mean(self) -> torch.Tensor:
        """The mean over the layers so far, of the shape of `total`.

        Raises:
            ValueError: nothing was added.
        """
        if self.total is None:
            raise ValueError("no map was added")
        return self.total / self._count
