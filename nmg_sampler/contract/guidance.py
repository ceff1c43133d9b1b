"""The plug: how a method keeps a sampling step faithful to a trajectory."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from ..errors import InvalidInput
from ..trajectory.recorded import RecordedStates
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Trajectory
from .branches import Branches
from .predictor import Guided, Predictor, PromptEmbedding

# The extra that marks a trajectory of independently drawn states (`edit_friendly`): noise per step.
STEP_NOISE = "edit_friendly_noise"


@dataclass(frozen=True, eq=False)
class Run:
    """What a guidance method may know of the run it takes part in.

    Attributes:
        predictor: the network with its prompts bound.
        trajectory: where to stay close to.
        total: number of steps of the run.
        text_scale: classifier-free guidance scale, dimensionless.
        branches: what the rows of a state are. A method holds the rows `branches.held` to the
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


class Prepared(NamedTuple):
    """What a method hands to the text-guided prediction of a step."""

    x: torch.Tensor  # (rows, C, ...) the states to predict from, at the step's level
    negative: torch.Tensor | None = None  # the unconditional prediction of all rows, if known
    embedding: PromptEmbedding | None = None  # takes the negative prompt's place in this step
    needs_negative: bool = False  # it is used, so text guidance of scale 1 makes it as well


class GuidedRun:
    """A method at work in one run: three moments of each step, each neutral unless overridden.

    It is made by `Guidance.begin`, may keep state, and ends with the run. The base class is text
    guidance alone: no correction, and no change outside the mask.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def prepare(self, x: torch.Tensor, step: Step) -> Prepared:
        """Before the prediction: the state it is made from."""
        return Prepared(x)

    def correct(self, x: torch.Tensor, step: Step, guided: Guided) -> torch.Tensor:
        """After the prediction: the noise that the step follows."""
        return guided.eps

    def settle(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """After the step: the state at `step.level_to`. As it is here: the recorded one where the
        mask of the run is 0, exactly."""
        if self.run.mask is None:
            return x
        return torch.lerp(self.run.recorded(step.entry_to, like=x), x, self.run.mask)


class Guidance:
    """A method with its settings: immutable, holds nothing of a run.

    Attributes:
        needs_source_prompt: whether it asks the predictor about the source prompt.
        corrects_only: whether all that it does to a step is to correct the predicted noise, so that
            another loop may take the steps.
    """

    needs_source_prompt = False
    corrects_only = False

    def check(self, trajectory: Trajectory, branches: Branches) -> None:
        """Raises InvalidInput if it cannot work with this trajectory, or without a source.

        As it is here it refuses states that are no path but drawn one by one, which only the method
        that they are made for can go through; a method's own check begins with this one.
        """
        if STEP_NOISE in trajectory.extras:
            raise InvalidInput.of(
                "trajectory",
                "is of the wrong kind",
                "that of Edit-Friendly Inversion, whose states are drawn one by one",
                "noise maps on a path, as NMG Invert makes them",
                "Connect the guidance of Edit-Friendly Inversion as well, or use NMG Invert.",
            )

    def begin(self, run: Run) -> GuidedRun:
        """The method at work in `run`."""
        raise NotImplementedError


@dataclass(frozen=True)
class PlainGuidance(Guidance):
    """DDIM with text guidance and no correction: the baseline."""

    corrects_only = True

    def begin(self, run: Run) -> GuidedRun:
        return GuidedRun(run)


def check_text_scale(text_scale: float) -> None:
    """Raises InvalidInput unless it is a scale of classifier-free guidance."""
    if not 0 <= text_scale < math.inf:
        raise InvalidInput.of(
            "text_scale",
            "is no scale",
            text_scale,
            "a finite number, 0 or more",
            "1 is no guidance.",
        )
