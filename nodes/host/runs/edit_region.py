"""Where an edit wants to happen, inside the host's sampling path."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Branches, Prompt, Trajectory
from ....nmg_sampler.contract import OnStep
from ....nmg_sampler.looks import edit_region, region_entries
from ..models.model import check_still, check_trajectory
from ..network.conditions import Conditioning
from ..network.several import targets_of
from .checks import check_conditioning, check_parts, check_prompt_count
from .looking import look_at
from .predictor import HostPredictor


def run_edit_region(
    model: ModelPatcher,
    trajectory: Trajectory,
    positive: Conditioning,
    levels: int,
    threshold: float,
    grow: int,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Where the target prompt wants the pictures of a trajectory changed.

    Args:
        levels: how many of the recorded states are looked at.
        threshold, grow: as `edit_region` takes them.

    Returns:
        (pictures, 1, height, width) float32 0..1 over the latent, on the CPU; the cost.

    Raises:
        InvalidInput: a prompt is empty or does not fit, or a setting leaves its range.
        TrajectoryMismatch: the trajectory was made with another model.
        NotFinite: the model answered with NaN or infinity.
    """
    check_conditioning(positive, "positive")
    check_conditioning(trajectory.source, "trajectory's source prompt")
    check_trajectory(model, trajectory)
    check_still(model, trajectory, "NMG Edit Region")
    pictures = trajectory.shape[0]
    check_prompt_count(trajectory.source, "trajectory's source prompt", trajectory.shape)
    branches = Branches(pictures, len(targets_of(positive, pictures)))
    check_parts(positive, "positive", trajectory.shape)
    entries = region_entries(trajectory.schedule, levels)

    def look(predictor: HostPredictor, device: torch.device, on_step: OnStep) -> torch.Tensor:
        return edit_region(
            trajectory,
            predictor,
            entries,
            targets=branches.targets,
            threshold=threshold,
            grow=grow,
            device=device,
            on_step=on_step,
        )

    # Two predictions, not branches of one: the prompts need not be built alike.
    conditions = {Prompt.SOURCE.value: trajectory.source, Prompt.POSITIVE.value: positive}
    return look_at(model, trajectory, conditions, look, branches)
