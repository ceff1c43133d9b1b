"""What the host's models are to the library: identity, family, schedules."""

import hashlib
import json
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ...nmg_sampler import (
    Family,
    InvalidInput,
    ModelIdentity,
    Schedule,
    official_masactrl_schedule,
    official_schedule,
    schedule_from_sigmas,
)

OFFICIAL_SCHEDULES = {
    "official": official_schedule,
    "official-masactrl": official_masactrl_schedule,
}
SCHEDULES = [*OFFICIAL_SCHEDULES, *comfy.samplers.SCHEDULER_NAMES]

# So many weight vectors, evenly spaced by name, tell models apart.
_FINGERPRINT_WEIGHTS = 24


def identify(model: ModelPatcher) -> ModelIdentity:
    """Family, prediction, latent format and fingerprint of a model.

    Raises:
        InvalidInput: the model is of a family that this pack does not support yet.
    """
    sampling = model.get_model_object("model_sampling")
    prediction = _prediction(sampling)
    if prediction is None:
        raise InvalidInput.of(
            "model",
            "is of a family that is not supported yet",
            f"{type(model.model).__name__} ({_sampling_name(sampling)})",
            "a model with eps or v prediction: SD 1.x, SD 2.x or SDXL",
            "Load a checkpoint of one of these families.",
        )
    latent_format = type(model.get_model_object("latent_format")).__name__
    return ModelIdentity(Family.VP, prediction, latent_format, _fingerprint(model))


def make_schedule(model: ModelPatcher, name: str, steps: int) -> Schedule:
    """The schedule called `name` over the model's own noise levels.

    Raises:
        InvalidInput: steps < 1, or more than the model has timesteps.
    """
    if steps < 1:
        raise InvalidInput.of("steps", "are too few", steps, "1 or more", "50 is usual.")
    sampling = model.get_model_object("model_sampling")
    if name in OFFICIAL_SCHEDULES:
        alphas_bar = 1.0 / (1.0 + sampling.sigmas.double() ** 2)
        return OFFICIAL_SCHEDULES[name](alphas_bar.tolist(), steps)
    sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps)
    return schedule_from_sigmas(name, sigmas.tolist())


def make_custom_schedule(sigmas: torch.Tensor) -> Schedule:
    """The schedule of a SIGMAS input, noisiest first."""
    return schedule_from_sigmas("custom", sigmas.flatten().tolist())


def check_channels(model: ModelPatcher, latent: torch.Tensor, name: str = "latent_image") -> None:
    """Raises InvalidInput if the latent is not of the model's latent space."""
    if getattr(latent, "is_nested", False):
        raise InvalidInput.of(
            "latent_image",
            "holds several latents at once",
            "a nested latent",
            "one latent (batch, channels, height, width)",
            "Separate audio and video first.",
        )
    latent_format = model.get_model_object("latent_format")
    channels = latent_format.latent_channels
    problem = None
    if latent.ndim != 2 + latent_format.latent_dimensions:
        problem = f"has {latent.ndim} dimensions"
    elif latent.shape[1] != channels:
        problem = f"has {latent.shape[1]} channels but the model takes {channels}"
    if problem is not None:
        raise InvalidInput.of(
            name,
            problem,
            tuple(latent.shape),
            f"(batch, {channels}, height, width)",
            "Encode the picture with the VAE of this model.",
        )


def _prediction(sampling: Any) -> str | None:
    """ "eps", "v" or None: what the host's class of noise levels and predictions means."""
    kinds = comfy.model_sampling
    scaled = isinstance(sampling, kinds.EPS) and sampling.sigma_data == 1.0
    # Some classes below EPS feed the network without scaling: another family.
    if not scaled or type(sampling).calculate_input is not kinds.EPS.calculate_input:
        return None
    if isinstance(sampling, kinds.EDM):
        return None
    return "v" if isinstance(sampling, kinds.V_PREDICTION) else "eps"


def _sampling_name(sampling: Any) -> str:
    """The host's name of the prediction kind; its own classes are nameless mixtures."""
    own = {"calculate_input", "calculate_denoised"}
    kinds = type(sampling).__mro__
    return next((kind.__name__ for kind in kinds if own & vars(kind).keys()), kinds[0].__name__)


def _fingerprint(model: ModelPatcher) -> str:
    """A hash of architecture and of some weight vectors, with patches of the host taken off.

    Vectors only: they are cheap to read, and LoRAs leave them alone; those that a patch did
    change are read from the host's backup.
    """
    weights = {k: v for k, v in model.model.diffusion_model.named_parameters() if v.ndim == 1}
    names = sorted(weights)[:: max(1, len(weights) // _FINGERPRINT_WEIGHTS)]
    digest = hashlib.sha256()
    config = {k: str(v) for k, v in model.model.model_config.unet_config.items() if k != "dtype"}
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name in names:
        backup = model.backup.get(f"diffusion_model.{name}")
        weight = weights[name] if backup is None else backup.weight
        if not weight.is_meta:
            digest.update(weight.detach().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]
