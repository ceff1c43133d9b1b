"""The other plug: how an editor couples the edits to the source through attention."""

import torch

from ..trajectory.schedule import Step
from .attention import AttentionEdit
from .guidance import Run
from .predictor import Request
from .prompts import BranchPrompts
from .solver import Predicted


class EditorRun:
    """An editor at work in one run: moments of each step, each neutral unless overridden.

    It is made by `Editor.begin`, may keep state, and ends with the run. States hold all branches,
    the source first (see `Branches`).
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def attention(self, step: Step) -> AttentionEdit | None:
        """How attention is changed in the text-guided prediction; None leaves it alone."""
        return None

    def predict(self, request: Request, step: Step) -> Predicted:
        """The states that the step starts from, and the text-guided prediction of them.

        Args:
            request: of the guidance; its level may lie within the step, see `Solver`.
        """
        # Beside a source, attention is seen at scale 1 under no method more than under another.
        alone = not self.run.branches.with_source
        request = request._replace(
            attention=self.attention(step),
            needs_negative=request.needs_negative and alone,
        )
        return Predicted(request.x, self.run.predictor.guided(request))

    def settle(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """After the step: the states at `step.level_to`."""
        return x


class Editor:
    """An editor with its settings: immutable, holds nothing of a run.

    Attributes:
        predicts_apart: whether it has source and targets predicted in calls of their own.
    """

    predicts_apart = False

    def bound(self, prompts: BranchPrompts) -> "Editor":
        """The editor for the prompts of a run; itself, unless it takes its words from them.

        Raises:
            InvalidInput: it does, and they are not known.
        """
        return self

    def check(self, prompts: BranchPrompts) -> None:
        """Raises InvalidInput if it was made for other prompts."""

    def begin(self, run: Run) -> EditorRun:
        """The editor at work in `run`, whose branches include the source."""
        raise NotImplementedError
