"""The prompts of a run as the network takes them, and which of them one call can take."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from ....nmg_sampler import Branches, Prompt, Rows
from ..network.conditions import Condition
from ..network.rows import Group, Pair, check_alike, difference, group_alike


class BoundPrompts:
    """Those of one run.

    Args:
        branches: what the rows of the run's states are.
        source: the prompt of the source branch, where it has one of its own.
        targets: those of the target branches.
        negative: the unconditional prompt by itself.
        several_negatives: whether each target has one of its own.

    Attributes:
        all as the arguments.
    """

    def __init__(
        self,
        branches: Branches,
        source: Pair | None,
        targets: Sequence[Pair],
        negative: list[Condition] | None,
        several_negatives: bool = False,
    ) -> None:
        self.branches = branches
        self.source = source
        self.targets = tuple(targets)
        self.negative = negative
        self.several_negatives = several_negatives
        self._groups: dict[Rows, list[Group]] = {}

    def conditions(self) -> Iterator[Condition]:
        """Every part of every prompt."""
        pairs = self.source, *self.targets, Pair([], self.negative)
        for pair in filter(None, pairs):
            yield from pair.text
            yield from pair.negative or ()

    def check_one_call(self) -> None:
        """Raises InvalidInput unless one call can take source and targets."""
        check_alike(self._pairs(Rows.ALL))

    def groups(self, rows: Rows) -> list[Group]:
        """The prompts of the branches that `rows` names, those together that one call can take."""
        if rows not in self._groups:
            self._groups[rows] = group_alike(
                self._pairs(rows), self.branches.pictures, self.several_negatives
            )
        return self._groups[rows]

    def asked(self, prompt: Prompt, rows: Rows, seeing_both: bool) -> list[Group]:
        """The groups of a prediction under one kind of prompt.

        Args:
            rows: the branches that an unconditional prediction is for.
            seeing_both: whether it is made in one call with the text beside it.
        """
        if prompt is Prompt.SOURCE:
            return [Group(slice(None), self.source or Pair([]))]
        if prompt is Prompt.POSITIVE:
            return self.groups(Rows.TARGETS)
        groups = self.groups(rows) or [Group(slice(None), Pair([], self.negative))]
        first = Pair([], groups[0].pair.negative)
        others = (Pair([], group.pair.negative) for group in groups[1:])
        if (
            seeing_both
            or self.several_negatives
            or any(difference(first, other) for other in others)
        ):
            return groups
        return [Group(slice(None), Pair([], self.negative))]

    @cached_property
    def ids_of_negative(self) -> set[Any]:
        """The host's ids of the parts of the negative prompt that no text shares."""
        texts = (pair.text for pair in filter(None, (self.source, *self.targets)))
        shared = {part["uuid"] for text in texts for part in text}
        negatives = (self.negative, *(pair.negative for pair in self.targets))
        return {part["uuid"] for parts in negatives for part in parts or ()} - shared

    def _pairs(self, rows: Rows) -> list[Pair]:
        """One for each branch that `rows` names, in the order of the branches."""
        if self.source is None or not self.branches.with_source or not self.targets:
            return [*self.targets]
        named = {Rows.SOURCE: [self.source], Rows.TARGETS: [*self.targets]}
        return named.get(rows, [self.source, *self.targets])
