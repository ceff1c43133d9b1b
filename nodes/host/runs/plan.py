"""A run from a trajectory to edits, planned and checked before anything is loaded."""

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import (
    Branches,
    Editor,
    Guidance,
    Prompt,
    Trajectory,
    sample,
)
from ....nmg_sampler.contract import BranchPrompts, OnStep
from ....nmg_sampler.loops import branches_of_run
from ..models.latent_masks import check_mask_count, fit_mask
from ..models.model import check_trajectory, picture_of
from ..models.words import words_of
from ..network.alike import check_built_alike
from ..network.conditions import Conditioning
from ..network.door import check_editable
from ..network.patches import check_rules
from ..network.several import Target, columns_of, negatives_of, one_target, targets_of
from .checks import check_conditioning, check_parts, check_prompt_count
from .predictor import HostPredictor
from .procedure import Done, Job


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """What a run does, apart from the model that it does it with.

    Attributes:
        trajectory, guidance, text_scale, editor: as `sample` takes them.
        mask: (B, 1, ...) 0..1 or None, as `sample` takes it.
        picture: (B, C, ...) the trajectory's clean latent as a LATENT's samples.
        conditions: the prompts by the name of their `Prompt`.
        branches: what the rows of the run's states are.
        columns: prompt length of each branch in embedding columns; without an editor none.
    """

    trajectory: Trajectory
    guidance: Guidance
    text_scale: float
    editor: Editor | None
    mask: torch.Tensor | None
    picture: torch.Tensor
    conditions: dict[str, Conditioning]
    branches: Branches
    columns: tuple[int, ...]

    @property
    def job(self) -> Job:
        """The run of `sample`: its latent is that of all branches, the source first."""
        return Job(
            self.conditions,
            self.picture,
            self.trajectory.schedule,
            self._run,
            self.trajectory.noise_mask,
            self.branches,
            self.columns,
        )

    def _run(self, predictor: HostPredictor, x: torch.Tensor, on_step: OnStep) -> Done:
        result = sample(
            self.trajectory,
            predictor,
            self.guidance,
            self.text_scale,
            targets=self.branches.targets,
            editor=self.editor,
            device=x.device,
            mask=self.mask,
            on_step=on_step,
        )
        return Done(result.x)


def plan_sampling(
    model: ModelPatcher,
    trajectory: Trajectory,
    positive: Conditioning,
    negative: Conditioning,
    guidance: Guidance,
    text_scale: float,
    mask: torch.Tensor | None,
    editor: Editor | None = None,
) -> SamplingPlan:
    """The plan of a run under new prompts, its mask a MASK of any size.

    Raises:
        InvalidInput: a prompt is empty, or the method, the mask or the editor cannot be used.
        TrajectoryMismatch: the trajectory was made with another model.
    """
    check_conditioning(positive, "positive")
    check_conditioning(negative, "negative")
    check_trajectory(model, trajectory)
    picture = picture_of(model, trajectory)
    pictures = len(picture)
    check_mask_count(mask, picture.shape)
    fitted = fit_mask(mask, picture.shape)
    targets = targets_of(positive, pictures)
    branches = branches_of_run(pictures, len(targets), guidance, editor)
    against = negatives_of(negative, branches)
    check_parts(positive, "positive", picture.shape)
    check_parts(negative, "negative", picture.shape)
    conditions = {Prompt.POSITIVE.value: positive, Prompt.NEGATIVE.value: negative}
    columns: tuple[int, ...] = ()
    guidance.check(trajectory, branches)
    if branches.with_source or guidance.needs_source_prompt:
        check_conditioning(trajectory.source, "trajectory's source prompt")
        check_prompt_count(trajectory.source, "trajectory's source prompt", trajectory.shape)
        conditions[Prompt.SOURCE.value] = trajectory.source
    if editor is not None:
        check_editable(model, editor)
        source = one_target(trajectory.source, pictures, "trajectory's source prompt")
        prompts = _prompts([source, *targets])
        columns = prompts.columns
        editor = editor.bound(prompts)
        editor.check(prompts)
        check_built_alike([source, *targets], against[0], picture.shape[2:])
    check_rules(model, branches, apart=editor is not None and editor.predicts_apart)
    return SamplingPlan(
        trajectory, guidance, text_scale, editor, fitted, picture, conditions, branches, columns
    )


def _prompts(branches: list[Target]) -> BranchPrompts:
    """What is known of the prompts of all branches."""
    return BranchPrompts(
        tuple(columns_of(target) for target in branches),
        tuple(words_of(target) for target in branches),
    )
