"""The way down: from a trajectory's noise back to a picture, under a new prompt."""

from collections.abc import Callable

import torch

from .errors import InvalidInput
from .events import StepEvent, check_finite
from .guidance import Guidance, Run
from .levels import ddim_step, eps_to_x0
from .predictor import Predictor
from .trajectory import Trajectory, check_mask


@torch.no_grad()
def sample(
    trajectory: Trajectory,
    predictor: Predictor,
    guidance: Guidance,
    text_scale: float,
    *,
    device: torch.device | str = "cpu",
    mask: torch.Tensor | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
) -> torch.Tensor:
    """The clean latent reached from the trajectory's last state.

    Args:
        trajectory: where to start and where to stay close to.
        predictor: the network with the target (positive) and the negative prompt bound.
        guidance: the method that keeps the steps faithful.
        text_scale: classifier-free guidance scale, dimensionless, 0 or more; 1 is none.
        device: where the states live during the run.
        mask: (B or 1, 1, ...) 0..1, 1 where the picture may change, for the method; or None.
        on_step: called after each step.

    Returns:
        (B, C, ...), dtype of the trajectory, on `device`, at the trajectory's lowest level.
        Where the trajectory's own noise_mask is 0 it is the recorded state.

    Raises:
        InvalidInput: the scale is negative or not finite, or the mask does not fit.
        NotFinite: the model answered with NaN or infinity.
    """
    if not 0 <= text_scale < float("inf"):
        raise InvalidInput.of(
            "text_scale",
            "is no scale",
            text_scale,
            "a finite number, 0 or more",
            "1 is no guidance.",
        )
    if mask is not None:
        check_mask("mask", mask, trajectory.shape)
    x = trajectory.states[-1].to(device, copy=True)
    steps = trajectory.schedule.descent()
    keep = _on(trajectory.noise_mask, x)
    method = guidance.begin(Run(predictor, trajectory, len(steps), text_scale, _on(mask, x)))
    for step in steps:
        prepared = method.prepare(x, step)
        guided = predictor.guided(prepared.x, step.level, text_scale, prepared.negative)
        eps = method.correct(prepared.x, step, guided)
        check_finite(eps, "prediction", step.index, len(steps), step.level)
        x = method.settle(ddim_step(prepared.x, eps, step.level, step.level_to), step)
        if keep is not None:
            recorded = trajectory.state(step.entry_to, like=x)
            # Exact at both ends: 0 is the recorded state, 1 the sampled one, bit for bit.
            x = torch.lerp(recorded, x, keep)
        if on_step is not None:
            x0 = eps_to_x0(prepared.x, eps, step.level)
            on_step(StepEvent(step.index, len(steps), step.level_to, x, x0))
    return x


def _on(mask: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    return None if mask is None else mask.to(device=x.device, dtype=x.dtype)
