"""Null-Text Inversion inside the host's sampling path, kept with the trajectory."""

import hashlib
import logging
from dataclasses import replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import InvalidInput, Prompt, Trajectory
from ....nmg_sampler.contract import OnStep
from ....nmg_sampler.files import pack_source
from ....nmg_sampler.methods import NullTextGuidance, NullTextSettings, optimise_null_text
from ..models.merges import merges_of
from ..models.model import check_trajectory, picture_of
from ..network.conditions import Conditioning
from ..network.patches import is_plain
from .checks import check_conditioning, check_prompt_count
from .predictor import Cost, HostPredictor
from .procedure import Done, Job, run_procedure

_PATCHED = (
    "Null-Text Inversion: a patch on the model takes part in text guidance, and what is optimised"
    " is an embedding for guidance without it. A reconstruction comes closer, and not all the way:"
    " look at it with NMG Reconstruction Check, or connect the model without the patch."
)


def run_null_text(
    model: ModelPatcher, trajectory: Trajectory, negative: Conditioning, settings: NullTextSettings
) -> tuple[NullTextGuidance, Trajectory, dict[str, Any]]:
    """Optimises along a trajectory under its source prompt, or takes what is kept with it.

    Returns:
        the guidance; the trajectory with the embeddings in its extras; what the run cost.

    Raises:
        InvalidInput: the source or the negative prompt cannot be used.
        TrajectoryMismatch: the trajectory was made with another model.
        NotDifferentiable: a patch cuts the model off from its prompt.
        NotFinite: the model answered with NaN or infinity.
    """
    check_conditioning(negative, "negative")
    check_conditioning(trajectory.source, "trajectory's source prompt")
    check_trajectory(model, trajectory)
    check_prompt_count(negative, "negative", trajectory.shape)
    check_prompt_count(trajectory.source, "trajectory's source prompt", trajectory.shape)
    known = None if _carries_patches(model) else _fingerprint(negative)
    name = None if known is None else settings.extra_name(known)
    if name in trajectory.extras:
        guidance = NullTextGuidance(trajectory.extras[name], settings.text_scale, trajectory)
        return guidance, trajectory, {**Cost().as_dict(), "seconds": 0.0}

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: OnStep) -> Done:
        if not is_plain(predictor.model_options, predictor.guider.model_patcher):
            logging.warning(_PATCHED)
        embeddings, latent = optimise_null_text(
            trajectory, predictor, settings, device=x.device, on_update=on_step
        )
        return Done(latent, embeddings)

    # As NMG Sample has it where it reconstructs.
    conditions = {Prompt.POSITIVE.value: trajectory.source, Prompt.NEGATIVE.value: negative}
    picture = picture_of(model, trajectory)
    job = Job(conditions, picture, trajectory.schedule, procedure, trajectory.noise_mask)
    _, found, cost = run_procedure(model, job)
    if name is not None:
        trajectory = replace(trajectory, extras={**trajectory.extras, name: found})
    return NullTextGuidance(found, settings.text_scale, trajectory), trajectory, cost


def _carries_patches(model: ModelPatcher) -> bool:
    """Whether there is more on a model than merges, which tell it from others by themselves.

    Trajectories do not tell: LoRAs may differ. What was optimised with one is not for another.
    """
    changed = any(len(merges_of(patches)) < len(patches) for patches in model.patches.values())
    beside = model.object_patches or model.injections
    return changed or bool(beside) or not is_plain(model.model_options, model)


def _fingerprint(prompt: Conditioning) -> str | None:
    """A short hash of a prompt and its options; None if it holds more than tensors and values."""
    tensors: dict[str, torch.Tensor] = {}
    try:
        text = repr(pack_source(prompt, tensors))
    except InvalidInput:  # a ControlNet or a hook
        return None
    digest = hashlib.sha256(text.encode())
    for tensor in tensors.values():
        digest.update(repr((tensor.shape, tensor.dtype)).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
