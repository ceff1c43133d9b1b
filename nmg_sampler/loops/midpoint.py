"""The midpoint step, second order: the noise half way along a step is what the whole step follows.

In x / alpha = x0 + k eps with k = sigma / alpha, the probability flow is dx / dk = eps(x), and DDIM
is Euler's step along it (arXiv 2010.02502, eq. 13). The midpoint rule asks twice:

    x_mid = x + (k' - k) / 2 eps(x, k)      x' = x + (k' - k) eps(x_mid, (k + k') / 2)

Of a flow k is sigma itself and eps the velocity: that is the inversion and sampling of RF-Solver
(arXiv 2411.04746, eq. 9), whose second derivative is a difference of two predictions, and the step
that FireFlow (arXiv 2412.07517) makes cheaper.
"""

from dataclasses import dataclass

from ..contract.predictor import Request
from ..contract.solver import Ask, Predicted, Solver, SolverRun
from ..trajectory.levels import NoiseLevel, level_from_sigma


@dataclass(frozen=True)
class Midpoint(Solver):
    """The midpoint rule: two predictions per step, and an error that falls with its square."""

    calls = 2

    def begin(self) -> SolverRun:
        return _MidpointRun()


class _MidpointRun(SolverRun):
    def predict(self, request: Request, level_to: NoiseLevel, ask: Ask) -> Predicted:
        x, first = ask(request)
        middle = half_way(request.level, level_to)
        x_middle = self.move(x, first.eps, request.level, middle)
        # What is known of the unconditional prediction is known at the beginning alone.
        _, guided = ask(request._replace(x=x_middle, level=middle, negative=None))
        return Predicted(x, guided)


def half_way(level: NoiseLevel, level_to: NoiseLevel) -> NoiseLevel:
    """The level in the middle of two, by sigma / alpha."""
    noisier = max(level, level_to, key=lambda each: each.k_sigma)
    return level_from_sigma((level.k_sigma + level_to.k_sigma) / 2, noisier.family)
