"""FlowEdit, arXiv 2412.08629: two paths side by side, and what differs between them is the edit.

Nothing is inverted. At every level t the picture is given noise of its own, q = (1 - t) x0 + t n,
and the edit z is looked at as far away from it as it is from the picture (eq. 8 and algorithm 1):

    p = z + q - x0      z' = z + (t' - t) (v(p, target) - v(q, source))      z = x0 at first

Here q is the source branch and p the target's. Both take their own step; the difference between
them, p - q = z - x0, is all that is kept when the next noise comes.
"""

from dataclasses import dataclass

import torch

from .. import checks
from ..contract.branches import Branches
from ..contract.guidance import Guidance, GuidedRun, Run, check_text_scale
from ..contract.predictor import Request
from ..errors import InvalidInput
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Kind, Trajectory


@dataclass(frozen=True)
class FlowEdit(Guidance):
    """FlowEdit with its settings, for states of `draw_states`; two rows of a picture per step.

    The target's text scale is that of the run: 5.5 for Flux, 13.5 for SD 3 as published. The paper
    begins below the noisiest levels (24 of 28 steps, 33 of 50): leave those out of the schedule.

    Attributes:
        source_scale: text scale of the source branch, dimensionless; 1.5 for Flux, 3.5 for SD 3.
        free_steps: the last so many steps are plain sampling of the target, n_min of the paper;
            0 or more.

    Raises:
        InvalidInput: a setting leaves its range.
    """

    source_scale: float = 1.5
    free_steps: int = 0

    needs_source_branch = True
    needs_drawn_states = True

    def __post_init__(self) -> None:
        check_text_scale(self.source_scale, "source_scale")
        checks.count("free_steps", self.free_steps, 0, "0 is the paper's.")

    def check(self, trajectory: Trajectory, branches: Branches) -> None:
        """Raises InvalidInput unless the states are drawn one by one."""
        if trajectory.kind is not Kind.DRAWN:
            raise InvalidInput.of(
                "trajectory",
                "is of the wrong kind",
                "one of inverted states",
                "states with noise of their own",
                "Draw them instead of inverting the picture.",
            )

    def begin(self, run: Run) -> GuidedRun:
        return _FlowEditRun(self, run)


class _FlowEditRun(GuidedRun):
    def __init__(self, guidance: FlowEdit, run: Run) -> None:
        super().__init__(run)
        self.guidance = guidance

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        scales = self.guidance.source_scale, self.run.text_scale
        return super().prepare(x, step)._replace(text_scale=scales)

    def settle(self, x: torch.Tensor, step: Step, eps: torch.Tensor) -> torch.Tensor:
        branches = self.run.branches
        source = self.run.recorded(step.entry_to, like=x[branches.source_rows])
        if step.index >= self.run.total - self.guidance.free_steps:
            return branches.with_held(x, source)
        edit = branches.split(x)[1:] - x[branches.source_rows]
        return torch.cat([source, (source + edit).flatten(0, 1)])
