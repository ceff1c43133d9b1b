"""The plug: how a method keeps a sampling step faithful to a trajectory."""

from dataclasses import dataclass
from functools import cached_property

import torch

from .. import checks
from ..trajectory.recorded import RecordedStates
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Trajectory
from .branches import Branches
from .predictor import Guided, Predictor, Request


@dataclass(frozen=True, eq=False)
class Run:
    """What a guidance may know of the run it takes part in.

    Attributes:
        predictor: the network with its prompts bound.
        trajectory: where to stay close to.
        total: number of steps of the run.
        text_scale: classifier-free guidance scale, dimensionless.
        branches: what the rows of a state are. A guidance holds `branches.held_rows` to the
            trajectory: those of the source branch, or without one all.
        mask: (B or 1, 1, ...) 0..1 on the run's device, 1 where the held rows may change; or None.
    """

    predictor: Predictor
    trajectory: Trajectory
    total: int
    text_scale: float
    branches: Branches
    mask: torch.Tensor | None = None

    def recorded(self, entry: int, like: torch.Tensor) -> torch.Tensor:
        """The recorded state of an entry, once for every picture in `like`."""
        state = self._states.at(entry, like)
        return state.repeat(len(like) // len(state), *[1] * (state.ndim - 1))

    @cached_property
    def _states(self) -> RecordedStates:
        return RecordedStates(self.trajectory.states)


class GuidedRun:
    """A guidance at work in one run: three moments of each step, each neutral unless overridden.

    It is made by `Guidance.begin`, may keep state, and ends with the run. The base class is text
    guidance alone: no correction, and no change outside the mask.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        """Before the prediction: what it is asked for, and from which states."""
        return Request(x, step.level, self.run.text_scale)

    def correct(self, x: torch.Tensor, step: Step, guided: Guided) -> torch.Tensor:
        """After the prediction: the noise that the step follows."""
        return guided.eps

    def settle(self, x: torch.Tensor, step: Step, eps: torch.Tensor) -> torch.Tensor:
        """After the step along `eps`: the state at `step.level_to`. As it is here: the recorded one
        where the mask of the run is 0, exactly."""
        if self.run.mask is None:
            return x
        return torch.lerp(self.run.recorded(step.entry_to, like=x), x, self.run.mask)


class Guidance:
    """A method with its settings: immutable, holds nothing of a run.

    Attributes:
        needs_source_prompt: whether it asks the predictor about the source prompt.
        needs_source_branch: whether the picture itself, under its own prompt, has to run beside the
            targets. It does under every editor; the guidance then holds that branch.
        needs_drawn_states: whether it is for states that are drawn one by one (`Kind.DRAWN`)
            instead of a path.
        moves_states: whether it does more to a step than to correct the predicted noise, so that no
            other loop may take the steps.
        masks_in_prediction: whether it keeps to a mask within the prediction; otherwise it puts the
            recorded state back after the step.
        needs_plain_steps: whether what it knows was found for DDIM's own step, and holds for no
            other `Solver`.
    """

    needs_source_prompt = False
    needs_source_branch = False
    needs_drawn_states = False
    moves_states = True
    masks_in_prediction = False
    needs_plain_steps = False

    def check(self, trajectory: Trajectory, branches: Branches) -> None:
        """Raises InvalidInput if it cannot work with this trajectory, or without a source.

        A method's own check begins with this one: states that are no path go with no method but
        those that are made for them.
        """
        if not self.needs_drawn_states:
            trajectory.check_path()

    def begin(self, run: Run) -> GuidedRun:
        """The guidance at work in `run`."""
        raise NotImplementedError


@dataclass(frozen=True)
class PlainGuidance(Guidance):
    """DDIM with text guidance and no correction: the baseline."""

    moves_states = False

    def begin(self, run: Run) -> GuidedRun:
        return GuidedRun(run)


def check_text_scale(text_scale: float, name: str = "text_scale") -> None:
    """Raises InvalidInput unless it is a scale of classifier-free guidance."""
    checks.strength(name, text_scale, "1 is no guidance.")
