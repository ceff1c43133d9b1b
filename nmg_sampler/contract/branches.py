"""Branches: one run carries the picture itself and any number of edits of it side by side."""

from dataclasses import dataclass
from enum import Enum

import torch


class Rows(Enum):
    """For which branches a prediction is made."""

    ALL = "all"
    SOURCE = "source"
    TARGETS = "targets"


@dataclass(frozen=True)
class Branches:
    """How the rows of a run's states are shared out: branch after branch, `pictures` rows each.

    Attributes:
        pictures: rows of one branch, B.
        targets: number of target prompts, 0 or more.
        with_source: whether the first branch is the source: the picture under its own prompt.
    """

    pictures: int
    targets: int = 1
    with_source: bool = False

    @property
    def count(self) -> int:
        return self.targets + self.with_source

    @property
    def rows(self) -> int:
        return self.count * self.pictures

    @property
    def source_rows(self) -> slice:
        """The rows of the source branch; empty without one."""
        return slice(0, self.pictures * self.with_source)

    @property
    def target_rows(self) -> slice:
        """The rows of all target branches."""
        return slice(self.pictures * self.with_source, self.rows)

    @property
    def held(self) -> Rows:
        """The branches that a guidance keeps faithful: see `held_rows`."""
        return Rows.SOURCE if self.with_source else Rows.TARGETS

    @property
    def held_rows(self) -> slice:
        """The rows that a guidance keeps faithful: the source, or without one all rows."""
        return self.source_rows if self.with_source else self.target_rows

    def part(self, rows: Rows) -> "Branches":
        """The branches that `rows` names, as a run of their own."""
        if rows is Rows.SOURCE:
            return Branches(self.pictures, 0, True)
        return self if rows is Rows.ALL else Branches(self.pictures, self.targets)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, ...) as (branches, pictures, ...): a view."""
        return x.unflatten(0, (self.count, self.pictures))

    def repeat(self, state: torch.Tensor) -> torch.Tensor:
        """(pictures, ...) once per branch: (rows, ...)."""
        return state if self.count == 1 else state.repeat(self.count, *[1] * (state.ndim - 1))

    def with_held(self, x: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """`x` with the held rows replaced; a new tensor unless all rows are held."""
        return torch.cat([held, x[self.target_rows]]) if self.with_source else held
