"""Many runs along one trajectory, in the host's sampling path."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE

from ....nmg_sampler import Editor, Trajectory
from ....nmg_sampler.methods import Setting
from ..models.decoding import check_vae
from ..network.conditions import Conditioning
from .plan import plan_sampling
from .procedure import Turn, total_cost
from .sampling import run_plan


def run_sweep(
    model: ModelPatcher,
    trajectory: Trajectory,
    positive: Conditioning,
    negative: Conditioning,
    vae: VAE,
    settings: Sequence[Setting],
    mask: torch.Tensor | None,
    editor: Editor | None,
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The edits of `run_sampling` with each of the settings, under one progress bar.

    Everything is checked, also that the VAE can show the edits, before the first run begins.

    Returns:
        per setting the edits, target after target, as a LATENT's samples; the cost of all.

    Raises:
        as `run_sampling`.
    """
    check_vae(vae, trajectory.states[0])
    plans = [
        plan_sampling(model, trajectory, positive, negative, guidance, text_scale, mask, editor)
        for guidance, text_scale in settings
    ]
    edits: list[torch.Tensor] = []
    costs: list[dict[str, Any]] = []
    for number, plan in enumerate(plans):
        # A run of its own for each: what patches keep during a run must not reach the next one.
        edit, _, cost = run_plan(model, plan, Turn(number, len(plans)))
        edits.append(edit)
        costs.append(cost)
    return edits, total_cost(costs)
