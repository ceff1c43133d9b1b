"""The way down: from a trajectory's noise back to a picture, under a new prompt."""

from functools import partial
from typing import NamedTuple

import torch

from ..contract.branches import Branches
from ..contract.editor import Editor, EditorRun
from ..contract.events import OnStep, StepEvent, check_finite
from ..contract.guidance import Guidance, Run, check_text_scale
from ..contract.noise_mask import NoiseMask
from ..contract.predictor import Predictor
from ..contract.solver import DDIM, Solver
from ..errors import InvalidInput
from ..trajectory.levels import eps_to_x0
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Trajectory, check_mask


class Sampled(NamedTuple):
    """The clean latents of a run."""

    x: torch.Tensor  # (rows, C, ...) of all branches, the source first
    branches: Branches  # what the rows are

    @property
    def edit(self) -> torch.Tensor:
        """(targets * B, C, ...) of the targets, target after target."""
        return self.x[self.branches.target_rows]

    @property
    def source(self) -> torch.Tensor | None:
        """(B, C, ...) of the source branch; None without one."""
        return self.x[self.branches.source_rows] if self.branches.with_source else None


def branches_of_run(
    pictures: int, targets: int, guidance: Guidance, editor: Editor | None
) -> Branches:
    """What the rows of a run are: with a source branch if the editor or the guidance needs one."""
    return Branches(pictures, targets, editor is not None or guidance.needs_source_branch)


@torch.no_grad()
def sample(
    trajectory: Trajectory,
    predictor: Predictor,
    guidance: Guidance,
    text_scale: float,
    *,
    targets: int = 1,
    editor: Editor | None = None,
    solver: Solver = DDIM,
    device: torch.device | str = "cpu",
    mask: torch.Tensor | None = None,
    on_step: OnStep | None = None,
) -> Sampled:
    """The clean latents reached from the trajectory's last state.

    Without a source branch the guidance holds every target to the trajectory. With one it holds
    that, and an editor couples the targets to it.

    Args:
        trajectory: where to start and where to stay close to.
        predictor: the network with the target (positive) and the negative prompt bound, and the
            source prompt where there is a source branch.
        guidance: the method that keeps the steps faithful.
        text_scale: classifier-free guidance scale, dimensionless, 0 or more; 1 is none.
        targets: number of target prompts bound to the predictor.
        editor: couples the targets to a source branch; or None.
        solver: how a step is taken.
        device: where the states live during the run.
        mask: (B or 1, 1, ...) 0..1, 1 where the picture may change: Noise Map Guidance holds weakly
            there and strongly elsewhere, other methods put the recorded state back elsewhere; with
            a source branch the targets are the source branch elsewhere.
        on_step: called after each step.

    Returns:
        Latents in the dtype of the trajectory, on `device`, at the trajectory's lowest level.
        Where the trajectory's own noise_mask is 0 they are the recorded state.

    Raises:
        InvalidInput: the scale is negative or not finite, the mask does not fit, or the guidance
            cannot go with the trajectory, the solver, or without an editor.
        NotFinite: the model answered with NaN or infinity.
    """
    check_text_scale(text_scale)
    check_solver(guidance, solver)
    if mask is not None:
        check_mask("mask", mask, trajectory.shape)
    branches = branches_of_run(trajectory.shape[0], targets, guidance, editor)
    guidance.check(trajectory, branches)
    x = branches.repeat(trajectory.states[-1].to(device, copy=True))
    steps = trajectory.schedule.descent()
    noise_mask, mask = (
        mask_on_rows(each, branches, x.device, x.dtype) for each in (trajectory.noise_mask, mask)
    )
    held_mask = None if branches.with_source else mask
    run = Run(predictor, trajectory, len(steps), text_scale, branches, held_mask)
    guiding = guidance.begin(run)
    editing = EditorRun(run) if editor is None else editor.begin(run)
    solving = solver.begin()
    for step in steps:
        kept = None if noise_mask is None else _noise_mask(run, noise_mask, step, x)
        shown = x if kept is None else kept.shown(x)
        request = guiding.prepare(shown, step)
        start, guided = solving.predict(request, step.level_to, partial(editing.predict, step=step))
        eps = guiding.correct(start, step, guided)
        check_finite(eps, "prediction", step.index, len(steps), step.level)
        if kept is not None:
            start, eps = kept.inside(x, shown, start, eps)
        x0 = eps_to_x0(start, eps, step.level)
        stepped = solving.move(start, eps, step.level, step.level_to)
        settled = editing.settle(guiding.settle(stepped, step, eps), step)
        # Exact at both ends: 0 is the one state, 1 the other, bit for bit.
        if mask is not None and branches.with_source:
            settled = torch.lerp(branches.repeat(settled[branches.source_rows]), settled, mask)
        if kept is not None:
            along = kept.outside(x)
            x0 = kept.mixed(eps_to_x0(x, along, step.level), x0)
            settled = kept.settled(solving.move(x, along, step.level, step.level_to), settled)
        x = settled
        if on_step is not None:
            edits = branches.target_rows
            source_x0 = x0[branches.source_rows] if branches.with_source else None
            reached = step.index, len(steps), step.level_to, x[edits], x0[edits]
            on_step(StepEvent(*reached, source_x0=source_x0))
    return Sampled(x, branches)


def _noise_mask(run: Run, mask: torch.Tensor, step: Step, x: torch.Tensor) -> NoiseMask:
    """The trajectory's noise mask in a step."""
    recorded = run.recorded(step.entry, like=x), run.recorded(step.entry_to, like=x)
    return NoiseMask(run.predictor.noise_mask_at(mask, step.level), *recorded, step)


def check_solver(guidance: Guidance, solver: Solver) -> None:
    """Raises InvalidInput if what the guidance knows was found for another step than this one."""
    if guidance.needs_plain_steps and type(solver) is not Solver:
        raise InvalidInput.of(
            "solver",
            "does not go with this guidance, which was found for the steps of DDIM",
            f"{type(solver).__name__} with {type(guidance).__name__}",
            "the steps of DDIM",
            "Leave the solver out, or take another guidance.",
        )


def mask_on_rows(
    mask: torch.Tensor | None, branches: Branches, device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor | None:
    """The mask on the run's device: one for all rows, or one per row."""
    if mask is None:
        return None
    mask = mask.to(device=device, dtype=dtype)
    return mask if len(mask) == 1 else branches.repeat(mask)
