"""Direct Inversion (PnP Inversion), arXiv 2310.01506: the source branch is put on the trajectory.

The paper (algorithm 1) finds the offset of each step of the source branch to the recorded state,
and adds it after the step; the target is left alone and learns of it through attention. Adding the
whole offset is the same as taking the recorded state, which is what happens here: the published
code's pass of its own over all steps, four rows each, is not needed.
"""

from dataclasses import dataclass

import torch

from .. import checks
from ..contract.branches import Branches
from ..contract.guidance import Guidance, GuidedRun, Run
from ..errors import InvalidInput
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Trajectory


@dataclass(frozen=True)
class DirectInversion(Guidance):
    """Direct Inversion with its settings; it costs no model call.

    Attributes:
        strength: share of the offset that is added, 0..1; 1 is the paper and pins the source
            branch to the recorded states bit for bit, 0 is plain text guidance.
        every: it acts in the steps 0, every, 2 every, ... of the run, 1 or more.

    Raises:
        InvalidInput: a setting leaves its range.
    """

    strength: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        checks.share("strength", self.strength, "1 is the paper's.")
        checks.count("every", self.every, 1, "1 is every step.")

    def check(self, trajectory: Trajectory, branches: Branches) -> None:
        """Raises InvalidInput without a source branch, or for states that are no path."""
        super().check(trajectory, branches)
        if not branches.with_source:
            raise InvalidInput.of(
                "guidance",
                "needs an editor",
                "Direct Inversion without one",
                "an editor: it pins the source branch and reaches the edit through it alone."
                " Pinned itself, the edit would be the picture, unchanged",
                "Connect Prompt-to-Prompt, MasaCtrl or pix2pix-zero, or take another method.",
            )

    def begin(self, run: Run) -> GuidedRun:
        return _DirectInversionRun(self, run)


class _DirectInversionRun(GuidedRun):
    def __init__(self, guidance: DirectInversion, run: Run) -> None:
        super().__init__(run)
        self.guidance = guidance

    def settle(self, x: torch.Tensor, step: Step, eps: torch.Tensor) -> torch.Tensor:
        if step.index % self.guidance.every != 0:
            return x
        held = x[self.run.branches.held_rows]
        recorded = self.run.recorded(step.entry_to, like=held)
        # Exact at both ends: a strength of 1 leaves nothing of the step, 0 all of it.
        moved = torch.lerp(held, recorded, self.guidance.strength)
        return self.run.branches.with_held(x, moved)
