"""The way down: from a trajectory's noise back to a picture, under a new prompt."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..contract.branches import Branches
from ..contract.editor import Editor, EditorRun
from ..contract.events import StepEvent, check_finite
from ..contract.guidance import Guidance, Run, check_text_scale
from ..contract.predictor import Predictor
from ..trajectory.levels import ddim_step, eps_to_x0
from ..trajectory.trajectory import Trajectory, check_mask


class Sampled(NamedTuple):
    """The clean latents of a run."""

    edit: torch.Tensor  # (targets * B, C, ...), target after target
    source: torch.Tensor | None  # (B, C, ...) the source branch; None without an editor


@torch.no_grad()
def sample(
    trajectory: Trajectory,
    predictor: Predictor,
    guidance: Guidance,
    text_scale: float,
    *,
    targets: int = 1,
    editor: Editor | None = None,
    device: torch.device | str = "cpu",
    mask: torch.Tensor | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Sampled:
    """The clean latents reached from the trajectory's last state.

    Without an editor the method holds every target to the trajectory. With one there is a source
    branch as well: the method holds that, and the editor couples the targets to it.

    Args:
        trajectory: where to start and where to stay close to.
        predictor: the network with the target (positive) and the negative prompt bound, and the
            source prompt where there is an editor.
        guidance: the method that keeps the steps faithful.
        text_scale: classifier-free guidance scale, dimensionless, 0 or more; 1 is none.
        targets: number of target prompts bound to the predictor.
        editor: couples the targets to a source branch; or None.
        device: where the states live during the run.
        mask: (B or 1, 1, ...) 0..1, 1 where the picture may change: Noise Map Guidance holds weakly
            there and strongly elsewhere, other methods put the recorded state back elsewhere; with
            an editor the targets are the source branch elsewhere.
        on_step: called after each step.

    Returns:
        Latents in the dtype of the trajectory, on `device`, at the trajectory's lowest level.
        Where the trajectory's own noise_mask is 0 they are the recorded state.

    Raises:
        InvalidInput: the scale is negative or not finite, or the mask does not fit.
        NotFinite: the model answered with NaN or infinity.
    """
    check_text_scale(text_scale)
    if mask is not None:
        check_mask("mask", mask, trajectory.shape)
    branches = Branches(trajectory.shape[0], targets, editor is not None)
    guidance.check(trajectory, branches)
    x = branches.repeat(trajectory.states[-1].to(device, copy=True))
    steps = trajectory.schedule.descent()
    keep, change = (
        mask_on_rows(each, branches, x.device, x.dtype) for each in (trajectory.noise_mask, mask)
    )
    held_mask = None if editor is not None else change
    run = Run(predictor, trajectory, len(steps), text_scale, branches, held_mask)
    method = guidance.begin(run)
    editing = EditorRun(run) if editor is None else editor.begin(run)
    for step in steps:
        prepared = method.prepare(x, step)
        x, guided = editing.predict(prepared, step)
        eps = method.correct(x, step, guided)
        check_finite(eps, "prediction", step.index, len(steps), step.level)
        x0 = eps_to_x0(x, eps, step.level) if on_step is not None else None
        x = method.settle(ddim_step(x, eps, step.level, step.level_to), step)
        x = editing.settle(x, step)
        # Exact at both ends: 0 is the one state, 1 the other, bit for bit.
        if change is not None and editor is not None:
            x = torch.lerp(branches.repeat(x[branches.source]), x, change)
        if keep is not None:
            x = torch.lerp(run.recorded(step.entry_to, like=x), x, keep)
        if on_step is not None:
            shown = branches.edits
            source_x0 = None if editor is None else x0[branches.source]
            reached = step.index, len(steps), step.level_to, x[shown], x0[shown]
            on_step(StepEvent(*reached, source_x0=source_x0))
    return Sampled(x[branches.edits], x[branches.source] if editor is not None else None)


def mask_on_rows(
    mask: torch.Tensor | None, branches: Branches, device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor | None:
    """The mask on the run's device: one for all rows, or one per row."""
    if mask is None:
        return None
    mask = mask.to(device=device, dtype=dtype)
    return mask if len(mask) == 1 else branches.repeat(mask)
