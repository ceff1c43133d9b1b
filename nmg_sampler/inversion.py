"""The way up: from a picture's latent to noise, keeping every state."""

from collections.abc import Callable

import torch

from .events import StepEvent, check_finite
from .levels import ddim_step, eps_to_x0
from .predictor import Predictor, Prompt
from .schedule import Schedule


@torch.no_grad()
def invert(
    x: torch.Tensor,
    schedule: Schedule,
    predictor: Predictor,
    on_step: Callable[[StepEvent], None] | None = None,
    regularize: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """All states of the DDIM inversion of `x` under the source prompt, without text guidance.

    Equation: DDIM, arXiv 2010.02502, sec. 4.3. The network is asked at `schedule.query_levels[k]`
    about the state at `schedule.levels[k]` as it is: which of the two the papers' codes take
    differs, and the trajectory differs with it.

    Args:
        x: (B, C, ...) floating, the source latent, taken to be at `schedule.levels[0]`.
        schedule: T steps.
        predictor: asked T times for one row per sample.
        on_step: called after each step.
        regularize: predicted noise -> the noise to step with, same shape; for instance that of
            pix2pix-zero, `NoiseRegularization`. None: as predicted.

    Returns:
        (T + 1, B, C, ...), dtype of x, CPU. Entry 0 is x.

    Raises:
        NotFinite: the model answered with NaN or infinity, or its regularised answer is that.
    """
    total = len(schedule.query_levels)
    states = torch.empty((total + 1, *x.shape), dtype=x.dtype, device="cpu")
    states[0] = x
    x = x.clone()  # a predictor that writes in place must not reach the caller's tensor
    for index, query_level in enumerate(schedule.query_levels):
        eps = predictor.eps(x, query_level, Prompt.SOURCE)
        check_finite(eps, "prediction", index, total, query_level)
        if regularize is not None:
            eps = regularize(eps)
            check_finite(eps, "regularised prediction", index, total, query_level)
        x0 = eps_to_x0(x, eps, query_level)
        x = ddim_step(x, eps, schedule.levels[index], schedule.levels[index + 1])
        states[index + 1] = x
        if on_step is not None:
            on_step(StepEvent(index, total, schedule.levels[index + 1], x, x0))
    return states
