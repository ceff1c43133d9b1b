"""pix2pix-zero's cross-attention guidance, arXiv 2302.03027.

Before a step predicts a target, the target's state goes down the gradient of the distance between
its cross-attention maps and those of the source at the same level (`attention_distance`).
"""

from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch

from .. import checks
from ..contract.attention import Half
from ..contract.branches import Rows
from ..contract.editor import Editor, EditorRun
from ..contract.guidance import Run
from ..contract.predictor import Prompt, Request, joined
from ..contract.prompts import BranchPrompts
from ..contract.solver import Predicted
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

    predicts_apart = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "halves", checks.choice("halves", self.halves, Halves))
        checks.strength("attention_scale", self.attention_scale)
        check_part(self.start, self.end)

    def check(self, prompts: BranchPrompts) -> None:
        source, *targets = prompts.columns
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
        return _Pix2PixZeroRun(self, run)


class _Pix2PixZeroRun(EditorRun):
    """Cross-attention guidance at work. Nothing outlives a step."""

    def __init__(self, editor: Pix2PixZero, run: Run) -> None:
        super().__init__(run)
        self.editor = editor

    def acts(self, step: Step) -> bool:
        """Whether `step` lies in the editor's part of the run."""
        editor, total = self.editor, self.run.total
        return editor.attention_scale > 0 and is_in_part(step, total, editor.start, editor.end)

    def predict(self, request: Request, step: Step) -> Predicted:
        if not self.acts(step):
            return super().predict(request, step)
        branches = self.run.branches
        attention = SourceAttention()
        theirs = self.run.predictor.guided(
            request._replace(
                x=request.x[branches.source_rows],
                rows=Rows.SOURCE,
                negative=None,
                attention=attention,
                needs_negative=False,
            )
        )
        moved, ours = self.targets(request, step, attention)
        x = torch.cat([request.x[branches.source_rows], moved])
        return Predicted(x, joined([theirs, ours]))

    def targets(self, request: Request, step: Step, source: SourceAttention) -> Predicted:
        """The moved states of the targets, and the text-guided prediction from them."""
        predictor, level, embedding = self.run.predictor, request.level, request.embedding
        x = request.x[self.run.branches.target_rows]
        request = request._replace(
            x=x, rows=Rows.TARGETS, negative=None, attention=None, needs_negative=False
        )
        gradients = [self.gradient(request, source, half) for half in Half if half in source.halves]
        if self.editor.halves is Halves.TOGETHER or len(gradients) < 2:
            x = x - sum(gradients)
            return Predicted(x, predictor.guided(request._replace(x=x)))
        unconditional, conditional = (x - gradient for gradient in gradients)
        negative = predictor.eps(unconditional, level, Prompt.NEGATIVE, embedding=embedding)
        known = request._replace(x=conditional, negative=negative)
        return Predicted(unconditional, predictor.guided(known))

    def gradient(self, request: Request, source: SourceAttention, half: Half) -> torch.Tensor:
        """attention_scale * dL/dx, of the part of L that one half has; shape of the state."""
        text = half is Half.COND
        prompt = Prompt.POSITIVE if text else Prompt.NEGATIVE
        try:
            gradient = self.run.predictor.loss_gradient(
                request.x,
                request.level,
                prompt,
                partial(AttentionDistance, source, half),
                request.embedding,
            )
        except NotDifferentiable as error:
            raise NotDifferentiable(
                f"attention_scale needs the gradient of the model, and it has none. Got"
                f" {self.editor.attention_scale}; expected 0 for this model. Remove the patch that"
                f" is in the way, or set attention_scale to 0. ({error})"
            ) from error
        return self.editor.attention_scale * gradient
