"""Local blend of Prompt-to-Prompt, arXiv 2208.01626: the edit stays where its words look.

The maps of chosen words are summed over layers, heads and all steps so far; where source or target
map is above a threshold the target's state is kept, everywhere else it becomes the source's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate, max_pool2d

from .. import checks
from ..contract.attention import AttentionLayer, shows_words
from ..contract.branches import Branches
from ..contract.column_maps import ColumnMaps, Columns
from ..errors import InvalidInput


@dataclass(frozen=True)
class LocalBlend:
    """Where an edit may show.

    Attributes:
        words: per target, the embedding columns (of the source prompt, of the target prompt) whose
            maps say where the edit is.
        threshold: of the map relative to its maximum, 0..1.
        start: part of the run after which it acts: the first maps are too vague.

    Raises:
        InvalidInput: a target has no words, or threshold or start leave their range.
    """

    words: tuple[tuple[Columns, Columns], ...]
    threshold: float = 0.3
    start: float = 0.2

    def __post_init__(self) -> None:
        for pair in self.words:
            if not all(pair):
                raise InvalidInput.of(
                    "blend_words",
                    "are missing for a prompt",
                    "no word",
                    "a word of the source and a word of the target prompt",
                    "Name them as in 'cat, tiger'.",
                )
        checks.share("threshold", self.threshold, "0.3 is usual.")
        checks.share("start", self.start, "0.2 is usual.")


class BlendRun:
    """A local blend at work: the maps so far.

    Args:
        blend: the settings.
        branches: source and targets.
        latent: (height, width) of the states.
        steps: number of steps that its start is a part of.
    """

    def __init__(
        self, blend: LocalBlend, branches: Branches, latent: Sequence[int], steps: int
    ) -> None:
        self.blend = blend
        self.branches = branches
        self.latent = latent
        self.first = int(blend.start * steps)
        self.maps = [ColumnMaps(pair) for pair in blend.words]  # per target

    def sees(self, layer: AttentionLayer) -> bool:
        return shows_words(layer, self.latent)

    def add(
        self, target: int, source_map: torch.Tensor, target_map: torch.Tensor, size: tuple[int, int]
    ) -> None:
        """One layer's maps of one target and of its source.

        Args:
            target: which target.
            source_map, target_map: (pictures, heads, height * width, columns of the prompt).
            size: (height, width) of the layer's cells.
        """
        self.maps[target].add((source_map, target_map), size)

    def settle(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """The states after step `index`, the targets blended into the source."""
        if index < self.first or any(maps.total is None for maps in self.maps):
            return x
        states = self.branches.split(x)
        source = states[0]
        edits = [
            torch.where(self.mask(target, x.shape[2:]), state, source)
            for target, state in enumerate(states[1:])
        ]
        return torch.cat([source, *edits])

    def mask(self, target: int, size: torch.Size) -> torch.Tensor:
        """(pictures, 1, height, width) bool: where the edit of a target may show."""
        # One cell further in every direction: attention is sharper than the object.
        spread = max_pool2d(self.maps[target].total, 3, stride=1, padding=1)
        wide = interpolate(spread, size=tuple(size))
        relative = wide / wide.amax((2, 3), keepdim=True)
        return (relative > self.blend.threshold).any(0)[:, None]
