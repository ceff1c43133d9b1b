"""A look at a trajectory's states, without sampling, in the host's sampling path."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Branches, Trajectory
from ....nmg_sampler.contract import OnStep
from ..models.model import picture_of
from ..network.conditions import Conditioning
from .predictor import HostPredictor
from .procedure import Done, Job, run_procedure


def look_at(
    model: ModelPatcher,
    trajectory: Trajectory,
    conditions: dict[str, Conditioning],
    look: Callable[[HostPredictor, torch.device, OnStep], torch.Tensor],
    branches: Branches,
    columns: tuple[int, ...] = (),
) -> tuple[torch.Tensor, dict[str, Any]]:
    """What `look` finds in a trajectory's states, on the CPU, and the cost.

    Args:
        conditions, branches, columns: as `Job` has them.
        look: given the predictor, the run's device and what to call after each step.
    """

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: OnStep) -> Done:
        return Done(x, look(predictor, x.device, on_step))

    picture = picture_of(model, trajectory)
    job = Job(
        conditions,
        picture,
        trajectory.schedule,
        procedure,
        trajectory.noise_mask,
        branches,
        columns,
    )
    _, found, cost = run_procedure(model, job)
    return found.cpu(), cost
