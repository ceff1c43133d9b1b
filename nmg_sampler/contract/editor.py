"""The other plug: how an editor couples the edits to the source through attention."""

from collections.abc import Sequence

import torch

from ..trajectory.schedule import Step
from .attention import AttentionEdit
from .guidance import Run
from .predictor import Request
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
    """An editor with its settings: immutable, holds nothing of a run."""

    def check(self, columns: Sequence[int]) -> None:
        """Raises InvalidInput if it was made for other prompts.

        Args:
            columns: prompt length in embedding columns, of the source and of each target.
        """

    def begin(self, run: Run) -> EditorRun:
        """The editor at work in `run`, whose branches include the source."""
        raise NotImplementedError
