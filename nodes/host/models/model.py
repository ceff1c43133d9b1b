"""What the host's models are to the library: identity, family, schedules."""

from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import (
    Family,
    InvalidInput,
    ModelIdentity,
    Schedule,
    Trajectory,
    evenly_spaced_schedule,
    official_masactrl_schedule,
    official_schedule,
    schedule_from_sigmas,
)
from ....nmg_sampler.trajectory import (
    NoiseLevel,
    level_from_flow_sigma,
    level_from_sigma,
    state_to_k,
    usual_steps,
)
from .fingerprint import fingerprint

_OFFICIAL, _EVEN = "official", "official-masactrl"
OFFICIAL_SCHEDULES = {_OFFICIAL: official_schedule, _EVEN: official_masactrl_schedule}
SCHEDULES = [*OFFICIAL_SCHEDULES, *comfy.samplers.SCHEDULER_NAMES]

# Of a flow's noise to its picture: above, a half-done latent of the host keeps too few digits.
_PURE = 1e4
# Noise over picture at which a picture may be said to be. On the demo model edits were the same up
# to 0.3 (13.0 to 13.6 dB from the picture); from 1 on they kept the picture (16 dB, at 3: 34 dB).
_CLEAN = 0.35


def identify(model: ModelPatcher) -> ModelIdentity:
    """Family, prediction, latent format and fingerprint of a model.

    Raises:
        InvalidInput: the model is of a family that this pack does not support yet.
    """
    family, prediction = _family(model)
    latent_format = type(model.get_model_object("latent_format")).__name__
    return ModelIdentity(family, prediction, latent_format, fingerprint(model))


def make_schedule(model: ModelPatcher, name: str, steps: int) -> Schedule:
    """The schedule called `name` over the model's own noise levels.

    Raises:
        InvalidInput: steps < 1, or more than the model has timesteps, or the model has no such
            schedule or is of no supported family.
    """
    family, _ = _family(model)
    sampling = model.get_model_object("model_sampling")
    if steps < 1:
        usual = usual_steps(len(sampling.sigmas))
        raise InvalidInput.of("steps", "are too few", steps, "1 or more", usual)
    if name not in OFFICIAL_SCHEDULES:
        sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps)
        return schedule_from_sigmas(name, sigmas.tolist(), family)
    if family is Family.VP:
        alphas_bar = 1.0 / (1.0 + sampling.sigmas.double() ** 2)
        return OFFICIAL_SCHEDULES[name](alphas_bar.tolist(), steps)
    if name == _OFFICIAL:
        raise InvalidInput.of(
            "schedule",
            "is that of a code for Stable Diffusion 1.x",
            f"{name!r} with a flow model ({_model_name(model)})",
            f"{_EVEN!r} or a scheduler of ComfyUI",
            f"Choose {_EVEN!r}.",
        )
    table = [level_from_flow_sigma(sigma) for sigma in sampling.sigmas.tolist()]
    return evenly_spaced_schedule(name, table, steps)


def make_custom_schedule(model: ModelPatcher, sigmas: torch.Tensor) -> Schedule:
    """The schedule of a SIGMAS input, noisiest first.

    Raises:
        InvalidInput: they are no levels of the model or do not end at the picture, or it is of no
            supported family.
    """
    family, _ = _family(model)
    schedule = schedule_from_sigmas("custom", sigmas.flatten().tolist(), family)
    last = schedule.levels[0]
    smallest = float(model.get_model_object("model_sampling").sigma_min)
    if last.noise_ratio > max(_CLEAN, level_from_sigma(smallest, family).noise_ratio):
        raise InvalidInput.of(
            "sigmas",
            "end far above the picture, which would be taken for a state with that much noise",
            f"a last sigma of {last.k_sigma:.6g}",
            f"0, or at most the model's smallest, {smallest:.4g}",
            "An inversion begins at the picture: connect all sigmas, or low_sigmas of SplitSigmas.",
        )
    return schedule


def half_done(model: ModelPatcher, state: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """A state as the host keeps half-done latents, for a sampler that goes on from there.

    Of a flow the host divides by 1 - sigma, and a sampler multiplies by it. At pure noise that
    leaves nothing to go on from: there the state is left as it is.
    """
    x = state_to_k(state, level)
    if is_pure_noise(level):
        return x
    sampling = model.get_model_object("model_sampling")
    return sampling.inverse_noise_scaling(torch.tensor(level.k_sigma), x)


def is_pure_noise(level: NoiseLevel) -> bool:
    """Whether a latent at this level of a flow, as the host scales it, would be rounding alone."""
    return level.family is Family.FLOW and level.noise_ratio > _PURE


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
    if 0 in latent.shape:
        problem = "is empty"
    elif latent.ndim != 2 + latent_format.latent_dimensions:
        problem = f"has {latent.ndim} dimensions"
    elif latent.shape[1] != channels:
        problem = f"has {latent.shape[1]} channels but the model takes {channels}"
    if problem is not None:
        sides = ", ".join(("frames", "height", "width")[-latent_format.latent_dimensions :])
        raise InvalidInput.of(
            name,
            problem,
            tuple(latent.shape),
            f"(batch, {channels}, {sides})",
            "Encode the picture with the VAE of this model.",
        )


def check_trajectory(model: ModelPatcher, trajectory: Trajectory) -> None:
    """Raises TrajectoryMismatch or InvalidInput unless the trajectory is of this model."""
    trajectory.check_fits(identify(model))
    check_channels(model, trajectory.states[0], "trajectory")


def picture_of(model: ModelPatcher, trajectory: Trajectory) -> torch.Tensor:
    """The trajectory's clean latent as a LATENT's samples, (B, C, ...) float32."""
    return model.model.process_latent_out(trajectory.states[0].float())


def check_still(model: ModelPatcher, trajectory: Trajectory, feature: str) -> None:
    """Raises InvalidInput if the trajectory is of videos, which the feature cannot serve."""
    if len(trajectory.shape) != 4:
        raise InvalidInput.of(
            "trajectory",
            f"is of a video, and {feature} works on still pictures",
            f"{_model_name(model)}, latents {trajectory.shape}",
            "(batch, channels, height, width)",
            "Use a model for still pictures, or leave it out.",
        )


def _family(model: ModelPatcher) -> tuple[Family, str]:
    """What the host's class of noise levels and predictions means: family and prediction."""
    sampling = model.get_model_object("model_sampling")
    kinds = comfy.model_sampling
    # Some classes below these scale the network's input, or read its answer, in a way of their own.
    flow = isinstance(sampling, kinds.CONST) and _inherits(
        sampling, kinds.CONST, "calculate_input", "calculate_denoised"
    )
    if flow:
        return Family.FLOW, "flow"
    scaled = isinstance(sampling, kinds.EPS) and sampling.sigma_data == 1.0
    if scaled and _inherits(sampling, kinds.EPS, "calculate_input"):
        if not isinstance(sampling, kinds.EDM):
            return Family.VP, "v" if isinstance(sampling, kinds.V_PREDICTION) else "eps"
    raise InvalidInput.of(
        "model",
        "is of a family that is not supported",
        f"{_model_name(model)} ({_sampling_name(sampling)})",
        "a model with eps or v prediction, or a flow: SD 1.x, SD 2.x, SDXL, SD 3, Flux, WAN, LTX",
        "Load a checkpoint of one of these families.",
    )


def _inherits(sampling: Any, kind: type, *names: str) -> bool:
    return all(getattr(type(sampling), name) is getattr(kind, name) for name in names)


def _model_name(model: ModelPatcher) -> str:
    return type(model.model).__name__


def _sampling_name(sampling: Any) -> str:
    """The host's name of the prediction kind; its own classes are nameless mixtures."""
    own = {"calculate_input", "calculate_denoised"}
    kinds = type(sampling).__mro__
    return next((kind.__name__ for kind in kinds if own & vars(kind).keys()), kinds[0].__name__)
