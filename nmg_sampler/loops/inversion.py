"""The way up: from a picture's latent to noise, keeping every state."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from ..contract.events import OnStep, StepEvent, check_finite
from ..contract.predictor import Guided, Predictor, Prompt, Request
from ..contract.solver import DDIM, Predicted, Solver
from ..errors import InvalidInput
from ..trajectory.levels import Family, NoiseLevel, eps_to_x0
from ..trajectory.recorded import Record
from ..trajectory.schedule import Schedule


@torch.no_grad()
def invert(
    x: torch.Tensor,
    schedule: Schedule,
    predictor: Predictor,
    on_step: OnStep | None = None,
    regularize: Callable[[torch.Tensor], torch.Tensor] | None = None,
    refine_iterations: int = 0,
    solver: Solver = DDIM,
) -> torch.Tensor:
    """All states of the DDIM inversion of `x` under the source prompt, without text guidance.

    Equation: DDIM, arXiv 2010.02502, sec. 4.3. The network is asked at `schedule.query_levels[k]`
    about the state at `schedule.levels[k]` as it is: which of the two the papers' codes take
    differs, and the trajectory differs with it.

    Refined, each step goes on from that first answer by fixed-point iteration (as ReNoise, arXiv
    2403.14602, alg. 1, without its averages): the network is asked about the state reached, at the
    level reached, whatever the query level, and the step taken anew from where it began. The fixed
    point is the exact inverse of the sampling step. Each iteration multiplies the error by the
    change of the step with its own result: steps so large that this is above 1 it makes worse.

    Args:
        x: (B, C, ...) floating, the source latent, taken to be at `schedule.levels[0]`.
        schedule: T steps.
        predictor: asked (1 + refine_iterations) T times for one row per sample, and that as often
            as the solver asks in a step.
        on_step: called after each step.
        regularize: predicted noise -> the noise to step with, same shape; for instance that of
            pix2pix-zero, `NoiseRegularization`. None: as predicted. Applied to every prediction;
            a sampling step does without, so what is refined then is no exact inverse.
        refine_iterations: of each step, 0 or more; 0 is plain DDIM inversion. A schedule that
            starts sampling below its last level ("official") keeps the error of that.
        solver: how a step is taken; the one that will sample back.

    Returns:
        (T + 1, B, C, ...), dtype of x, CPU. Entry 0 is x.

    Raises:
        InvalidInput: refine_iterations is negative, or a flow's velocity is to be regularised.
        NotFinite: the model answered with NaN or infinity, or its regularised answer is that.
    """
    if refine_iterations < 0:
        raise InvalidInput.of(
            "refine_iterations", "are too few", refine_iterations, "0 or more", "0 is none."
        )
    if regularize is not None and schedule.family is Family.FLOW:
        raise InvalidInput.of(
            "regularize",
            "makes predicted noise white, and a flow model predicts a velocity",
            "a flow model",
            "a model with eps or v prediction",
            "Set it to 0.",
        )
    total = len(schedule.query_levels)
    record = Record(total + 1, like=x)
    record.keep(0, x)
    x = x.clone()  # a predictor that writes in place must not reach the caller's tensor

    solving = solver.begin()
    for index, query_level in enumerate(schedule.query_levels):
        level, level_to = schedule.levels[index], schedule.levels[index + 1]

        ask = partial(_ask, predictor, regularize, {level: query_level}, index, total)
        eps = solving.predict(Request(x, level, 1.0), level_to, ask).guided.eps
        x0 = eps_to_x0(x, eps, query_level)
        reached = solving.move(x, eps, level, level_to)
        for _ in range(refine_iterations):
            # What sampling will follow on its way back from here.
            eps = solving.predict(Request(reached, level_to, 1.0), level, ask).guided.eps
            reached = solving.move(x, eps, level, level_to)
            x0 = eps_to_x0(reached, eps, level_to)
        x = reached
        record.keep(index + 1, x)
        if on_step is not None:
            on_step(StepEvent(index, total, level_to, x, x0))
    return record.complete()


def _ask(
    predictor: Predictor,
    regularize: Callable[[torch.Tensor], torch.Tensor] | None,
    labels: Mapping[NoiseLevel, NoiseLevel],
    index: int,
    total: int,
    request: Request,
) -> Predicted:
    """The prediction under the source prompt, at the level that stands for the state's own."""
    level = labels.get(request.level, request.level)
    eps = predictor.eps(request.x, level, Prompt.SOURCE)
    check_finite(eps, "prediction", index, total, level)
    if regularize is not None:
        eps = regularize(eps)
        check_finite(eps, "regularised prediction", index, total, level)
    return Predicted(request.x, Guided(eps, None))
