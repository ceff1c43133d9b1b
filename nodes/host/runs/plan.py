"""A run from a trajectory to edits, planned and checked before anything is loaded."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import (
    Branches,
    Editor,
    Guidance,
    Predictor,
    Prompt,
    StepEvent,
    Trajectory,
    sample,
)
from ..models.latent_masks import check_mask_count, fit_mask
from ..models.model import check_channels, identify
from ..network.attention import check_editable
from ..network.branches import columns_of, count_targets, one_row_per_picture
from ..network.conditions import Conditioning
from .checks import check_conditioning


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

    def run(
        self, predictor: Predictor, x: torch.Tensor, on_step: Callable[[StepEvent], None]
    ) -> torch.Tensor:
        """The clean latents of all branches, the source first, on the device of `x`."""
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
        return result.edit if result.source is None else torch.cat([result.source, result.edit])


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
    trajectory.check_fits(identify(model))
    check_channels(model, trajectory.states[0], "trajectory")
    picture = model.model.process_latent_out(trajectory.states[0].float())
    pictures = len(picture)
    check_mask_count(mask, pictures)
    fitted = fit_mask(mask, picture.shape)
    branches = Branches(pictures, count_targets(positive, pictures), editor is not None)
    conditions = {
        Prompt.POSITIVE.value: one_row_per_picture(positive, branches),
        Prompt.NEGATIVE.value: negative,
    }
    columns: tuple[int, ...] = ()
    guidance.check(trajectory, branches)
    if editor is not None or guidance.needs_source_prompt:
        check_conditioning(trajectory.source, "trajectory's source prompt")
        conditions[Prompt.SOURCE.value] = trajectory.source
    if editor is not None:
        check_editable(model, editor)
        lengths = columns_of(trajectory.source, positive)
        columns = lengths[:1] + lengths[1:] * branches.targets
        editor.check(columns)
    return SamplingPlan(
        trajectory, guidance, text_scale, editor, fitted, picture, conditions, branches, columns
    )
