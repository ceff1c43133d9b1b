"""How well a run comes back to its picture: where it ends, and how far it strays on the way."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .events import StepEvent
from .guidance import Guidance
from .predictor import Predictor
from .sampling import sample
from .trajectory import Trajectory


class Followed(NamedTuple):
    """A run back along its own trajectory."""

    latent: torch.Tensor  # (B, C, ...) where it ends, at the trajectory's lowest level
    distances: torch.Tensor  # (T + 1, B) float32, CPU, to the recorded states, noisiest first


def follow(
    trajectory: Trajectory,
    predictor: Predictor,
    guidance: Guidance,
    text_scale: float,
    *,
    device: torch.device | str = "cpu",
    on_step: Callable[[StepEvent], None] | None = None,
) -> Followed:
    """Samples back along a trajectory and measures the distance to its states on the way.

    A distance is the root mean square of the differences of one sample's elements: dimensionless,
    where states are of the order of 1. The first one is that of the state sampling starts from,
    which is 0 unless the schedule relabels it.

    Args:
        trajectory: where to start, and what to compare with.
        predictor: with the SOURCE prompt bound as the positive one, and the negative prompt.
        guidance, text_scale, device, on_step: as `sample` takes them.

    Raises:
        InvalidInput, NotFinite: as `sample`.
    """
    steps = trajectory.schedule.descent()
    start = trajectory.states[-1].to(device)
    distances = [_distance(start, trajectory, steps[0].entry)]

    def look(event: StepEvent) -> None:
        distances.append(_distance(event.x, trajectory, steps[event.index].entry_to))
        if on_step is not None:
            on_step(event)

    run = sample(trajectory, predictor, guidance, text_scale, device=device, on_step=look)
    return Followed(run.edit, torch.stack(distances).cpu())


def _distance(x: torch.Tensor, trajectory: Trajectory, entry: int) -> torch.Tensor:
    """(B,) root mean square distance of a state to the recorded one."""
    difference = x.float() - trajectory.state(entry, like=x).float()
    return difference.square().flatten(1).mean(1).sqrt()
