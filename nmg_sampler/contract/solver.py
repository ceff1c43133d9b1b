"""The third plug: how one step along the predicted noise is taken, up or down.

The noise that a step follows is asked for by `SolverRun.predict`, and the step is taken by
`SolverRun.move`. As they are here: one prediction where the step begins, and the DDIM step, which
for a flow is Euler's.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..trajectory.levels import NoiseLevel, ddim_step
from .predictor import Guided, Request


class Predicted(NamedTuple):
    """An answer to a request."""

    x: torch.Tensor  # the states that the step starts from: an editor may have moved them
    guided: Guided


# Whoever has a say in a prediction, in one function.
Ask = Callable[[Request], Predicted]


class SolverRun:
    """A solver at work in one run; may keep what it wants for the next step, and ends with it."""

    def predict(self, request: Request, level_to: NoiseLevel, ask: Ask) -> Predicted:
        """What a step from `request.level` to `level_to` starts from, and the noise it follows.

        A method corrects that noise once per step, however often the network is asked.
        """
        return ask(request)

    def move(
        self, x: torch.Tensor, eps: torch.Tensor, level: NoiseLevel, level_to: NoiseLevel
    ) -> torch.Tensor:
        """The state at `level_to` reached from `x` at `level` along `eps`; shapes are equal."""
        return ddim_step(x, eps, level, level_to)


class Solver:
    """A solver with its settings: immutable, holds nothing of a run. This one is DDIM.

    Attributes:
        calls: predictions per step.
    """

    calls = 1

    def begin(self) -> SolverRun:
        """The solver at work in one run, which may also be the way up."""
        return SolverRun()


DDIM = Solver()
