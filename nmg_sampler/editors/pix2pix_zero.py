"""pix2pix-zero's cross-attention guidance, arXiv 2302.03027.

Before a step predicts a target, the target's state goes down the gradient of the distance between
its cross-attention maps and those of the source at the same level (`attention_distance`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from ..contract.branches import Rows
from ..contract.differentiation import loss_gradient
from ..contract.editor import Editor, EditorRun
from ..contract.guidance import Prepared, Run
from ..contract.predictor import Guided, Prompt
from ..errors import InvalidInput, NotDifferentiable
from ..trajectory.schedule import Step, check_part, is_in_part
from .attention_distance import AttentionDistance, SourceAttention


class Halves(str, Enum):
    """What the gradients under the prompt and under the negative prompt move."""

    TOGETHER = "together"  # both the one state
    SEPARATE = "separate"  # each a copy of its own, as the published code: see `Pix2PixZero`


@dataclass(frozen=True)
class Pix2PixZero(Editor):
    """Cross-attention guidance with its settings.

    With separate halves each is predicted from the copy that its own gradient moved, and the step
    goes on from the unconditional one's. What the prompt's maps say then enters the prediction, but
    not the state.

    Cost per step, in network rows of a picture: 2 for the source; per target 2 with a backward pass
    and 2 without. Where it does not act it costs nothing: one call predicts all branches.

    Attributes:
        attention_scale: lambda_xa, length of the step down the gradient, for states
            alpha * x0 + sigma * eps; 0 or more.
        halves: see `Halves`.
        start, end: fractions of the run between which it acts, 0 the noisiest end.

    Raises:
        InvalidInput: the scale is negative or not finite, `halves` is unknown, or start >= end.
    """

    attention_scale: float = 0.1
    halves: Halves = Halves.TOGETHER
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "halves", Halves(self.halves))
        except ValueError:
            names = " or ".join(repr(choice.value) for choice in Halves)
            raise InvalidInput.of(
                "halves", "is unknown", repr(self.halves), names, "Names are lower case."
            ) from None
        if not 0 <= self.attention_scale < math.inf:
            raise InvalidInput.of(
                "attention_scale",
                "is no strength",
                self.attention_scale,
                "a finite number, 0 or more",
                "0 switches it off.",
            )
        check_part(self.start, self.end)

    def check(self, columns: Sequence[int]) -> None:
        source, *targets = columns
        if any(length != source for length in targets):
            raise InvalidInput.of(
                "positive",
                "is not as long as the source prompt, whose attention pix2pix-zero compares with it"
                " column by column",
                f"{', '.join(map(str, targets))} columns",
                f"{source}, those of the trajectory's prompt",
                "Give positive the source prompt, moved by an edit direction.",
            )

    def begin(self, run: Run) -> EditorRun:
        return Pix2PixZeroRun(self, run)


class Pix2PixZeroRun(EditorRun):
    """Cross-attention guidance at work. Nothing outlives a step."""

    def __init__(self, editor: Pix2PixZero, run: Run) -> None:
        super().__init__(run)
        self.editor = editor

    def acts(self, step: Step) -> bool:
        """Whether `step` lies in the editor's part of the run."""
        editor, total = self.editor, self.run.total
        return editor.attention_scale > 0 and is_in_part(step, total, editor.start, editor.end)

    def predict(self, prepared: Prepared, step: Step) -> tuple[torch.Tensor, Guided]:
        if not self.acts(step):
            return super().predict(prepared, step)
        branches, scale = self.run.branches, self.run.text_scale
        source, targets = prepared.x[branches.source], prepared.x[branches.edits]
        attention = SourceAttention()
        theirs = self.run.predictor.guided(
            source,
            step.level,
            scale,
            rows=Rows.SOURCE,
            attention=attention,
            embedding=prepared.embedding,
        )
        moved, ours = self.targets(prepared._replace(x=targets), step, attention)
        both = theirs.negative is not None and ours.negative is not None
        negatives = torch.cat([theirs.negative, ours.negative]) if both else None
        return torch.cat([source, moved]), Guided(torch.cat([theirs.eps, ours.eps]), negatives)

    def targets(
        self, prepared: Prepared, step: Step, source: SourceAttention
    ) -> tuple[torch.Tensor, Guided]:
        """The moved states of the targets, and the text-guided prediction from them."""
        predictor, scale = self.run.predictor, self.run.text_scale
        x, embedding = prepared.x, prepared.embedding
        gradients = {
            text: self.gradient(prepared, step, source, text) for text in sorted(source.halves)
        }
        if self.editor.halves is Halves.TOGETHER or len(gradients) < 2:
            x = x - sum(gradients.values())
            return x, predictor.guided(x, step.level, scale, rows=Rows.TARGETS, embedding=embedding)
        unconditional, conditional = (x - gradient for gradient in gradients.values())
        negative = predictor.eps(unconditional, step.level, Prompt.NEGATIVE, embedding=embedding)
        guided = predictor.guided(conditional, step.level, scale, negative, rows=Rows.TARGETS)
        return unconditional, guided

    def gradient(
        self, prepared: Prepared, step: Step, source: SourceAttention, text: bool
    ) -> torch.Tensor:
        """attention_scale * dL/dx, of the part of L that one half has; shape of the state."""
        prompt = Prompt.POSITIVE if text else Prompt.NEGATIVE
        embedding = None if text else prepared.embedding
        loss = AttentionDistance(source, text)
        try:
            gradient = loss_gradient(
                self.run.predictor, prepared.x, step.level, prompt, loss, embedding
            )
        except NotDifferentiable as error:
            raise NotDifferentiable(
                f"attention_scale needs the gradient of the model, and it has none. Got"
                f" {self.editor.attention_scale}; expected 0 for this model. Remove the patch that"
                f" is in the way, or set attention_scale to 0. ({error})"
            ) from error
        return self.editor.attention_scale * gradient
