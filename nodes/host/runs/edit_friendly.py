"""Edit-Friendly DDPM inversion inside the host's sampling path."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Kind, Prompt, Schedule, Trajectory, invert_edit_friendly
from ....nmg_sampler.contract import OnStep
from ....nmg_sampler.methods import STEP_NOISE
from ..models.latent_masks import latent_mask
from ..models.model import check_channels, identify
from ..network.conditions import Conditioning
from .checks import check_conditioning, check_prompt_count
from .predictor import HostPredictor
from .procedure import Done, Job, run_procedure


def run_edit_friendly(
    model: ModelPatcher,
    source: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    schedule: Schedule,
    source_scale: float,
    generator: torch.Generator,
) -> tuple[Trajectory, dict[str, Any]]:
    """Inverts a LATENT under the source prompt with text guidance; generator on the CPU.

    Returns:
        the trajectory with the noise of its steps in its extras; what the run cost.

    Raises:
        InvalidInput: latent, conditioning, scale or model cannot be used.
        NotFinite: the model answered with NaN or infinity.
    """
    check_conditioning(source, "positive")
    check_conditioning(negative, "negative")
    identity = identify(model)
    samples = latent["samples"]
    check_channels(model, samples)
    check_prompt_count(source, "positive", samples.shape)
    check_prompt_count(negative, "negative", samples.shape)
    noise_mask = latent_mask(latent.get("noise_mask"), samples.shape)

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: OnStep) -> Done:
        states, noise = invert_edit_friendly(
            x, schedule, predictor, source_scale, generator, on_step
        )
        extras = {STEP_NOISE: noise}
        drawn = Trajectory(states, schedule, identity, source, noise_mask, extras, Kind.DRAWN)
        return Done(x, drawn)

    # As NMG Sample has it where it reconstructs: the source prompt as the positive one.
    conditions = {Prompt.POSITIVE.value: source, Prompt.NEGATIVE.value: negative}
    job = Job(conditions, samples, schedule, procedure, noise_mask)
    _, trajectory, cost = run_procedure(model, job)
    return trajectory, cost
