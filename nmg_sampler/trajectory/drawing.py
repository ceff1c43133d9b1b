"""States drawn instead of found by inversion: the picture with noise of its own at every level."""

import torch

from .levels import NoiseLevel, add_noise
from .schedule import Schedule


def draw_states(x0: torch.Tensor, schedule: Schedule, generator: torch.Generator) -> torch.Tensor:
    """The picture, and the picture with fresh noise at every other level of a schedule.

    Args:
        x0: (B, C, ...) floating, the source latent; entry 0.
        schedule: T steps.
        generator: on the CPU. A picture's noise depends on its place in the batch, but neither on
            the size of the batch nor on how many steps come after.

    Returns:
        (T + 1, B, C, ...), dtype of x0, CPU; of `Kind.DRAWN`.
    """
    x0 = x0.cpu()
    seeds = torch.randint(2**63 - 1, (len(x0),), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def at(level: NoiseLevel) -> torch.Tensor:
        drawn = [torch.randn(x0.shape[1:], generator=g, dtype=x0.dtype) for g in generators]
        return add_noise(x0, torch.stack(drawn), level)

    return torch.stack([x0, *map(at, schedule.levels[1:])])
