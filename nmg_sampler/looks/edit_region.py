"""Where an edit wants to happen, read off a trajectory before anything is edited. Our own idea.

At a few recorded states x_k in the middle of the trajectory, the predictions under the target and
the source prompt are compared:

    d = mean over k and channels of |eps(x_k, target) - eps(x_k, source)|

Closer to noise the two prompts differ everywhere, closer to the picture nearly nowhere.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import max_pool2d

from .. import checks
from ..contract.branches import Branches
from ..contract.events import OnStep, StepEvent, check_finite
from ..contract.predictor import Predictor, Prompt
from ..trajectory.levels import eps_to_x0
from ..trajectory.schedule import Schedule
from ..trajectory.trajectory import Trajectory

# Noise over picture in the states that are looked at: levels 15 to 31 of 50 of Stable Diffusion
# 1.x, found by trial on the demo model.
_LOWEST, _HIGHEST = 0.78, 2.29
# Predicted noise is of size 1. A difference that nowhere reaches this is rounding, and no edit.
_ROUNDING = 1e-3


def region_entries(schedule: Schedule, count: int) -> tuple[int, ...]:
    """At most `count` entries in the middle of a trajectory, ascending; entry 0 is none of them.

    Args:
        schedule: of the trajectory.
        count: 1 or more.
    """
    return schedule.entries_by_noise(_LOWEST, _HIGHEST, count)


@torch.no_grad()
def edit_region(
    trajectory: Trajectory,
    predictor: Predictor,
    entries: Sequence[int],
    *,
    targets: int = 1,
    threshold: float = 0.0,
    grow: int = 0,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Where the target prompt wants the pictures of a trajectory changed: a mask of their latents.

    Cost: per entry two network rows of a picture (and one more for each further target), no
    gradient.

    Args:
        trajectory: of the pictures; states (B, C, h, w).
        predictor: the network with the source and the target (positive) prompts bound.
        entries: which states are looked at, none of them at sigma 0; see `region_entries`.
        targets: number of target prompts bound; the mask is where any of them wants a change.
        threshold: share of a picture's largest difference, 0..1, from which on it is an edit; 0
            keeps the mask soft.
        grow: by how many latent cells the mask is grown in each direction, 0 or more.
        device: where the states live during the run.
        on_step: called after each entry.

    Returns:
        (B, 1, h, w) 0..1, dtype of the trajectory, on `device`; 0 everywhere if the prompts mean
        the same.

    Raises:
        InvalidInput: threshold or grow leaves its range.
        NotFinite: the model answered with NaN or infinity.
    """
    checks.share("threshold", threshold, "0 keeps the mask soft.")
    checks.count("grow", grow, 0, "It counts latent cells; 0 is as found.")
    batch, _, *size = trajectory.shape
    branches = Branches(batch, targets)
    total = torch.zeros(targets, batch, 1, *size, dtype=trajectory.states.dtype, device=device)
    for index, entry in enumerate(entries):
        level = trajectory.schedule.levels[entry]
        x = trajectory.states[entry].to(device)
        source = predictor.eps(x, level, Prompt.SOURCE)
        target = predictor.eps(branches.repeat(x), level, Prompt.POSITIVE)
        for eps in (source, target):
            check_finite(eps, "prediction", index, len(entries), level)
        difference = (branches.split(target) - source).abs()
        total += difference.mean(2, keepdim=True)
        if on_step is not None:
            shown = eps_to_x0(x, target[:batch], level)
            on_step(StepEvent(index, len(entries), level, x, shown))
    mean = total / len(entries)
    # Each target by its own largest difference: a small edit counts as much as a large one.
    region = (mean / mean.amax((2, 3, 4), keepdim=True).clamp_min(_ROUNDING)).amax(0)
    if threshold > 0:
        region = (region >= threshold).to(region.dtype)
    return max_pool2d(region, 2 * grow + 1, stride=1, padding=grow) if grow else region
