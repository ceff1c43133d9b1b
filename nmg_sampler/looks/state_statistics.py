"""What a trajectory says of itself without a model call: its clean pictures, and its numbers."""

from dataclasses import dataclass

import torch

from ..trajectory.levels import NoiseLevel, eps_to_x0, step_factors
from ..trajectory.trajectory import Trajectory


@dataclass(frozen=True)
class Statistics:
    """Numbers of one state, over all of its elements; of white noise 0, 1, 0, 0.

    Attributes:
        mean, deviation: of the elements (the latter unbiased), dimensionless.
        kurtosis: excess kurtosis: above 0 where far values are more frequent than in a normal
            distribution, below 0 where they are rarer (an even distribution: -1.2).
        correlation: how alike neighbouring cells of a channel are, down and across: 1 is equal.
    """

    mean: float
    deviation: float
    kurtosis: float
    correlation: float


def predicted_clean(trajectory: Trajectory, entry: int) -> torch.Tensor:
    """The clean latent that the inversion step from `entry` to `entry + 1` went by.

    A DDIM step keeps the clean latent and the noise of its prediction, x = alpha * x0 + sigma * eps
    and x' = alpha' * x0 + sigma' * eps: two states on the path give both back (`step_factors`).

    Args:
        entry: 0 to T - 1; the trajectory is a path, not states that were drawn one by one.

    Returns:
        (B, C, ...) float32 or better, CPU.
    """
    lower, upper = (_floating(trajectory.states[k]) for k in (entry, entry + 1))
    level, level_to = trajectory.schedule.levels[entry : entry + 2]
    return eps_to_x0(lower, _step_noise(lower, upper, level, level_to), level)


def statistics(state: torch.Tensor) -> Statistics:
    """The numbers of a state (B, C, ..., h, w): all samples and channels together.

    A state without spread has a kurtosis and a correlation of 0.
    """
    x = state.double()
    deviation, mean = torch.std_mean(x) if x.numel() > 1 else (x.new_zeros(()), x.mean())
    centred = x - mean
    variance = centred.square().mean()
    if not float(variance) > 0:
        return Statistics(float(mean), 0.0, 0.0, 0.0)
    kurtosis = centred.square().square().mean() / variance.square() - 3
    products = [
        centred.narrow(axis, 1, size - 1) * centred.narrow(axis, 0, size - 1)
        for axis, size in ((-2, x.shape[-2]), (-1, x.shape[-1]))
        if size > 1
    ]
    pairs = torch.cat([each.flatten() for each in products]) if products else x.new_zeros(1)
    return Statistics(
        float(mean), float(deviation), float(kurtosis), float(pairs.mean() / variance)
    )


def _step_noise(
    lower: torch.Tensor, upper: torch.Tensor, level: NoiseLevel, level_to: NoiseLevel
) -> torch.Tensor:
    """The noise along which a DDIM step led from `lower` to `upper`."""
    scale, shift = step_factors(level, level_to)
    return (upper - scale * lower) / shift


def _floating(state: torch.Tensor) -> torch.Tensor:
    # Half precision has too few digits for the difference of two neighbouring states.
    return state.to(torch.promote_types(state.dtype, torch.float32))
