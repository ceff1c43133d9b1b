"""Inversion and sampling inside the host's sampling path: its loading, conditions and wrappers."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.samplers
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import (
    Branches,
    Editor,
    Guidance,
    Prompt,
    Schedule,
    StepEvent,
    Trajectory,
    invert,
)
from ..api.preview import side_by_side
from ..models.latent_masks import latent_mask
from ..models.model import check_channels, half_done, identify
from ..network.conditions import Conditioning
from .checks import check_conditioning
from .plan import SamplingPlan, plan_sampling
from .predictor import Cost, HostPredictor


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
        the trajectory; its noisiest state as a LATENT's samples (scaled as the host's samplers keep
        half-done latents, see `half_done`); what the run cost.

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
        return half_done(model, states[-1], schedule.levels[-1])

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
    plan = plan_sampling(model, trajectory, positive, negative, guidance, text_scale, mask, editor)
    return run_plan(model, plan)


class Turn(NamedTuple):
    """Which of how many runs of equal length that share one progress bar."""

    number: int
    of: int


_ALONE = Turn(0, 1)


def run_plan(
    model: ModelPatcher, plan: SamplingPlan, turn: Turn = _ALONE
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Does what was planned for this model; returns and raises as `run_sampling` does."""
    samples, cost = run_procedure(
        model,
        plan.conditions,
        plan.picture,
        plan.trajectory.schedule,
        plan.trajectory.noise_mask,
        plan.run,
        plan.branches,
        plan.columns,
        turn,
    )
    source = plan.picture if plan.editor is None else samples[plan.branches.source]
    return samples[plan.branches.edits], source, cost


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
            shown = side_by_side(event, self.branches.pictures)
            callback(event.index, shown, event.x, event.total)

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
    turn: Turn = _ALONE,
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
        callback=_progress(model, len(sigmas) - 1, turn),
    )
    seconds = round(time.perf_counter() - started, 3)
    return result.cpu(), {**sampler.cost.as_dict(), "seconds": seconds}


def total_cost(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """What several runs cost together."""
    return {name: round(sum(cost[name] for cost in costs), 3) for name in costs[0]}


def _progress(model: ModelPatcher, steps: int, turn: Turn) -> Callable[..., None]:
    """The host's bar and preview, for this run's part of the bar."""
    tell = latent_preview.prepare_callback(model, turn.of * steps)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        tell(turn.number * total + step, x0, x, turn.of * total)

    return callback
