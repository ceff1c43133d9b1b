"""The way up, in the host's sampling path."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Prompt, Schedule, Trajectory, invert
from ....nmg_sampler.contract import OnStep
from ..models.latent_masks import latent_mask
from ..models.model import check_channels, half_done, identify
from ..network.conditions import Conditioning
from .checks import check_conditioning, check_prompt_count
from .predictor import HostPredictor
from .procedure import Done, Job, run_procedure


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
    check_prompt_count(source, "positive", samples.shape)
    noise_mask = latent_mask(latent.get("noise_mask"), samples.shape)

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: OnStep) -> Done:
        states = invert(x, schedule, predictor, on_step, regularize, refine_iterations)
        trajectory = Trajectory(states, schedule, identity, source, noise_mask)
        return Done(half_done(model, states[-1], schedule.levels[-1]), trajectory)

    conditions = {Prompt.SOURCE.value: source}
    job = Job(conditions, samples, schedule, procedure, noise_mask)
    noisiest, trajectory, cost = run_procedure(model, job)
    return trajectory, noisiest, cost
