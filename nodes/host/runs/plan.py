"""A run from a trajectory to edits, planned and checked before anything is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import (
    Branches,
    Editor,
    Guidance,
    InvalidInput,
    Predictor,
    Prompt,
    StepEvent,
    Trajectory,
    sample,
)
from ....nmg_sampler.pixels.masks import WHITE
from ..models.model import check_channels, identify
from ..network.attention import check_editable
from ..network.branches import columns_of, count_targets, one_row_per_picture

Conditioning = list[tuple[torch.Tensor, dict[str, Any]]]


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
    _check_count(mask, pictures)
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


def check_conditioning(conditioning: Any, name: str) -> None:
    """Raises InvalidInput if there is no prompt in a CONDITIONING."""
    if not conditioning:
        raise InvalidInput.of(
            name, "is empty", "no prompt", "at least one", "Connect a CLIP Text Encode node."
        )


def fit_mask(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """A MASK or noise_mask of any size as (B, 1, ...) 0..1 over a latent of `shape`."""
    if mask is None:
        return None
    if not bool(torch.isfinite(mask).all()):
        raise InvalidInput.of(
            "mask", "is not finite", "NaN or infinity", "numbers from 0 to 1", "Check its source."
        )
    reduced = _reduce(mask.float().clamp(0, 1), shape[-2:])
    fitted = comfy.utils.reshape_mask(reduced, (shape[0], 1, *shape[2:]))
    fitted = fitted[:, :1].clamp(0, 1)
    return torch.where(fitted > WHITE, 1.0, fitted)


def _reduce(mask: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A mask no larger than `size` in its last two sides, each cell the mean of what it covers.

    The host reads four pixels per cell and no others: strokes between them would vanish.
    """
    given = mask.shape[-2:]
    smaller = [min(sides) for sides in zip(given, size, strict=True)]
    if smaller == list(given):
        return mask
    # In double precision the mean of equal numbers is that number, bit for bit.
    cells = torch.nn.functional.adaptive_avg_pool2d(mask.reshape(-1, 1, *given).double(), smaller)
    return cells.reshape(*mask.shape[:-2], *smaller).float()


def _check_count(mask: torch.Tensor | None, pictures: int) -> None:
    """Raises InvalidInput unless a MASK is one for all pictures or one for each.

    The host would leave masks out, or start again with the first, without a word.
    """
    count = 1 if mask is None else len(mask.reshape(-1, *mask.shape[-2:]))
    if count not in (1, pictures):
        raise InvalidInput.of(
            "mask",
            "does not fit the pictures",
            f"{count} masks for {pictures} pictures",
            "1" if pictures == 1 else f"1 or {pictures}",
            "Give one mask for all, or one for each.",
        )


def latent_mask(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """A LATENT's noise mask as a trajectory keeps it, on the CPU."""
    fitted = fit_mask(mask, shape)
    return None if fitted is None else fitted.cpu()
