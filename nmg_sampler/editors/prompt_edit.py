"""What one target prompt takes from the source prompt's attention maps, step by step."""

from dataclasses import dataclass

import torch

from ..words.alignment import Alignment
from ..words.prompt import TokenizedPrompt
from ..words.settings import word_schedule


@dataclass(frozen=True, eq=False)
class PromptEdit:
    """One target prompt of Prompt-to-Prompt.

    Attributes:
        target: the prompt, T columns.
        alignment: which of its columns come from where; (S, T).
        weights: (T,) factor of each column while it is taken over.
        cross_replace: part of the run in which cross-attention maps are taken over: the end, or
            (start, end), 0..1.
        word_schedules: other parts for single words, "tiger:0.4, vase:0.2-0.6".

    Raises:
        InvalidInput: a part of the run is none, or a word is not in the prompt.
    """

    target: TokenizedPrompt
    alignment: Alignment
    weights: torch.Tensor
    cross_replace: float | tuple[float, float] = 0.8
    word_schedules: str = ""

    def __post_init__(self) -> None:
        self.schedule(1)  # unreadable text is refused now, not in the middle of a graph

    @property
    def columns(self) -> tuple[int, int]:
        """Length of the source and of the target prompt."""
        return tuple(self.alignment.mapping.shape)

    def schedule(self, steps: int) -> torch.Tensor:
        """(steps, T): 1 where a column is taken over."""
        return word_schedule(
            self.target, self.cross_replace, self.word_schedules, steps, "word_schedules"
        )


class EditedMaps:
    """A `PromptEdit` in one run of `steps` steps.

    Its tensors are brought to where the maps are once, not in every layer.
    """

    def __init__(self, edit: PromptEdit, steps: int) -> None:
        self.schedule = edit.schedule(steps) > 0
        self._busy = self.schedule.any(1).tolist()
        self._tensors = (edit.alignment.mapping, edit.alignment.copied, edit.weights)

    def acts(self, index: int) -> bool:
        """Whether anything is taken over in step `index`."""
        return self._busy[index]

    def __call__(self, source: torch.Tensor, target: torch.Tensor, index: int) -> torch.Tensor:
        """The target's map in step `index`, from both maps: (..., S) and (..., T) to (..., T)."""
        if not self.acts(index):
            return target
        if self.schedule.device != target.device:
            self.schedule = self.schedule.to(target.device)
        if self._tensors[0].device != target.device or self._tensors[0].dtype != target.dtype:
            self._tensors = tuple(t.to(target.device, target.dtype) for t in self._tensors)
        mapping, copied, weights = self._tensors
        taken = (source @ mapping) * copied + target * (1 - copied)
        return torch.where(self.schedule[index], taken * weights, target)
