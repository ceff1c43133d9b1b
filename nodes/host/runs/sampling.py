"""The way down, in the host's sampling path."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Editor, Guidance, Trajectory
from ..network.conditions import Conditioning
from .plan import SamplingPlan, plan_sampling
from .procedure import ALONE, Turn, run_procedure


def run_sampling(
    model: ModelPatcher,
    trajectory: Trajectory,
    positive: Conditioning,
    negative: Conditioning,
    guidance: Guidance,
    text_scale: float,
    mask: torch.Tensor | None,
    editor: Editor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Samples back along a trajectory under new prompts.

    Returns:
        the edits, target after target, and the source branch (without one the trajectory's own
        clean latent), both as a LATENT's samples; the cost.

    Raises:
        InvalidInput: a prompt is empty, or a scale, the mask or the editor cannot be used.
        TrajectoryMismatch: the trajectory was made with another model.
        NotFinite: the model answered with NaN or infinity.
    """
    plan = plan_sampling(model, trajectory, positive, negative, guidance, text_scale, mask, editor)
    return run_plan(model, plan)


def run_plan(
    model: ModelPatcher, plan: SamplingPlan, turn: Turn = ALONE
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Does what was planned for this model; returns and raises as `run_sampling` does."""
    samples, _, cost = run_procedure(model, plan.job, turn)
    branches = plan.branches
    source = samples[branches.source_rows] if branches.with_source else plan.picture
    return samples[branches.target_rows], source, cost
