"""How well a run comes back to its picture: where it ends, and how far it strays on the way."""

from typing import NamedTuple

import torch

from ..contract.events import OnStep, StepEvent
from ..contract.guidance import Guidance
from ..contract.predictor import Predictor
from ..loops.sampling import sample
from ..trajectory.recorded import RecordedStates
from ..trajectory.trajectory import Trajectory


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
    on_step: OnStep | None = None,
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
    recorded = RecordedStates(trajectory.states)
    start = trajectory.states[-1].to(device)

    def distance(x: torch.Tensor, entry: int) -> torch.Tensor:
        """(B,) root mean square distance of a state to the recorded one."""
        difference = x.float() - recorded.at(entry, like=x).float()
        return difference.square().flatten(1).mean(1).sqrt()

    distances = [distance(start, steps[0].entry)]

    def look(event: StepEvent) -> None:
        distances.append(distance(event.x, steps[event.index].entry_to))
        if on_step is not None:
            on_step(event)

    run = sample(trajectory, predictor, guidance, text_scale, device=device, on_step=look)
    return Followed(run.edit, torch.stack(distances).cpu())
