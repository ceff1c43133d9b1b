"""Inversion and sampling inside the host's sampling path: its loading, conditions and wrappers."""

import time
from collections.abc import Callable
from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ...nmg_sampler import (
    Branches,
    Editor,
    Guidance,
    InvalidInput,
    Prompt,
    Schedule,
    StepEvent,
    Trajectory,
    invert,
    sample,
)
from ...nmg_sampler.levels import state_to_k
from .attention import check_editable
from .branches import columns_of, count_targets, one_row_per_picture
from .model import check_channels, identify
from .predictor import Cost, HostPredictor

Conditioning = list[tuple[torch.Tensor, dict[str, Any]]]


def run_inversion(
    model: ModelPatcher,
    source: Conditioning,
    latent: dict[str, Any],
    schedule: Schedule,
    regularize: Callable[[torch.Tensor], torch.Tensor] | None = None,
    refine_iterations: int = 0,
) -> tuple[Trajectory, torch.Tensor, dict[str, Any]]:
    """Inverts a LATENT under the source prompt; the last two arguments as `invert` takes them.

    Returns:
        the trajectory; its noisiest state as a LATENT's samples (sigma-scaled, as samplers of the
        host keep half-done latents); what the run cost.

    Raises:
        InvalidInput: latent, conditioning or model cannot be used.
        NotFinite: the model answered with NaN or infinity.
    """
    check_conditioning(source, "positive")
    identity = identify(model)
    samples = latent["samples"]
    check_channels(model, samples)
    mask = latent_mask(latent.get("noise_mask"), samples.shape)
    made: list[Trajectory] = []

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: Any) -> torch.Tensor:
        states = invert(x, schedule, predictor, on_step, regularize, refine_iterations)
        made.append(Trajectory(states, schedule, identity, source, mask))
        return state_to_k(states[-1], schedule.levels[-1])

    noisiest, cost = run_procedure(
        model, {Prompt.SOURCE.value: source}, samples, schedule, mask, procedure
    )
    return made[0], noisiest, cost


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
        the edits, target after target, and the source branch (without an editor the trajectory's
        own clean latent), both as a LATENT's samples; the cost.

    Raises:
        InvalidInput: a prompt is empty, or a scale, the mask or the editor cannot be used.
        TrajectoryMismatch: the trajectory was made with another model.
        NotFinite: the model answered with NaN or infinity.
    """
    check_conditioning(positive, "positive")
    check_conditioning(negative, "negative")
    trajectory.check_fits(identify(model))
    check_channels(model, trajectory.states[0], "trajectory")
    source = model.model.process_latent_out(trajectory.states[0].float())
    fitted = _fit_mask(mask, source.shape)
    pictures = len(source)
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

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: Any) -> torch.Tensor:
        result = sample(
            trajectory,
            predictor,
            guidance,
            text_scale,
            targets=branches.targets,
            editor=editor,
            device=x.device,
            mask=fitted,
            on_step=on_step,
        )
        return result.edit if result.source is None else torch.cat([result.source, result.edit])

    samples, cost = run_procedure(
        model,
        conditions,
        source,
        trajectory.schedule,
        trajectory.noise_mask,
        procedure,
        branches,
        columns,
    )
    return samples[branches.edits], samples[branches.source] if editor else source, cost


def check_conditioning(conditioning: Any, name: str) -> None:
    """Raises InvalidInput if there is no prompt in a CONDITIONING."""
    if not conditioning:
        raise InvalidInput.of(
            name, "is empty", "no prompt", "at least one", "Connect a CLIP Text Encode node."
        )


class _Procedure(comfy.samplers.Sampler):
    """A loop of the library where the host runs its samplers."""

    def __init__(
        self,
        procedure: Callable[..., torch.Tensor],
        branches: Branches,
        columns: tuple[int, ...],
    ) -> None:
        self.procedure = procedure
        self.branches = branches
        self.columns = columns
        self.cost = Cost()

    def sample(  # the host's own interface
        self,
        model_wrap: comfy.samplers.CFGGuider,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None],
        noise: torch.Tensor,
        latent_image: torch.Tensor | None = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        predictor = HostPredictor(
            model_wrap,
            extra_args["model_options"],
            extra_args.get("seed"),
            self.branches,
            self.columns,
        )

        def on_step(event: StepEvent) -> None:
            callback(event.index, event.x0, event.x, event.total)

        try:
            return self.procedure(predictor, latent_image, on_step)
        finally:
            self.cost = predictor.cost


def run_procedure(
    model: ModelPatcher,
    conditions: dict[str, Conditioning],
    samples: torch.Tensor,
    schedule: Schedule,
    noise_mask: torch.Tensor | None,
    procedure: Callable[..., torch.Tensor],
    branches: Branches | None = None,
    columns: tuple[int, ...] = (),
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The procedure's result as a LATENT's samples, and {calls, rows, seconds}."""
    branches = branches or Branches(len(samples))
    started = time.perf_counter()
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(conditions)
    sampler = _Procedure(procedure, branches, columns)
    # The host plans its memory, and sizes conditions and masks, by what it is given here.
    samples = branches.repeat(samples)
    # What other packs read as the run's levels: noisiest first, as for any sampler.
    sigmas = torch.tensor([level.k_sigma for level in reversed(schedule.levels)])
    result = guider.sample(
        torch.zeros_like(samples),
        samples,
        sampler,
        sigmas,
        denoise_mask=noise_mask,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
    )
    seconds = round(time.perf_counter() - started, 3)
    return result.cpu(), {**sampler.cost.as_dict(), "seconds": seconds}


def _fit_mask(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """A MASK or noise_mask of any size as (B, 1, ...) 0..1 over a latent of `shape`."""
    if mask is None:
        return None
    if not bool(torch.isfinite(mask).all()):
        raise InvalidInput.of(
            "mask", "is not finite", "NaN or infinity", "numbers from 0 to 1", "Check its source."
        )
    fitted = comfy.utils.reshape_mask(mask.float(), (shape[0], 1, *shape[2:]))
    return fitted[:, :1].clamp(0, 1)


def latent_mask(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """A LATENT's noise mask as a trajectory keeps it, on the CPU."""
    fitted = _fit_mask(mask, shape)
    return None if fitted is None else fitted.cpu()
