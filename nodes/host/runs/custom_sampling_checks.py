"""What has to fit where a run comes in two halves; all before anything is loaded."""

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import InvalidInput, Schedule, Trajectory, TrajectoryMismatch
from ....nmg_sampler.loops import check_moves_nothing
from ....nmg_sampler.trajectory import SAME_PICTURE
from ..models.model import half_done, is_pure_noise
from .plan import SamplingPlan


def sigmas_of(schedule: Schedule) -> torch.Tensor:
    """The levels of a run's steps as SIGMAS: (steps + 1,) float32, noisiest first."""
    levels = reversed(schedule.levels[: schedule.start + 1])
    return torch.tensor([level.k_sigma for level in levels])


def check_size(plan: SamplingPlan, latent: torch.Tensor) -> None:
    """Raises TrajectoryMismatch unless a LATENT's samples have the trajectory's shape."""
    nested = getattr(latent, "is_nested", False)
    if nested or tuple(latent.shape) != plan.trajectory.shape:
        raise TrajectoryMismatch.of(
            "latent_image",
            "is not of the trajectory's size",
            "a nested latent" if nested else tuple(latent.shape),
            plan.trajectory.shape,
            "Connect the latent that NMG Invert took, or the one it gives.",
        )


def check_pair(plan: SamplingPlan, trajectory: Trajectory, sigmas: torch.Tensor) -> None:
    """Raises InvalidInput unless trajectory and SIGMAS of the sampler are those of the guider."""
    if trajectory.states is not plan.trajectory.states:
        raise TrajectoryMismatch.of(
            "trajectory",
            "is not that of NMG Sampler",
            "two different ones",
            "one trajectory on both nodes",
            "Connect the same output to both.",
        )
    own = sigmas_of(trajectory.schedule)
    if not torch.equal(sigmas.cpu().float(), own):
        raise InvalidInput.of(
            "sigmas",
            "are not those of the trajectory",
            f"{len(sigmas)} from {float(sigmas.max()):.6g} to {float(sigmas.min()):.6g}",
            f"all {len(own)} from {float(own[0]):.6g} to {float(own[-1]):.6g}",
            "Connect the sigmas of NMG Sampler, unsplit. For a part of them take another sampler,"
            " such as euler.",
        )


def check_start(
    model: ModelPatcher, plan: SamplingPlan, noise: torch.Tensor, latent: torch.Tensor
) -> None:
    """Raises InvalidInput for noise, or for a latent that is not on the trajectory."""
    if bool(noise.any()):
        raise InvalidInput.of(
            "noise",
            "would be of no use",
            "random noise",
            "none: a trajectory brings its own",
            "Connect DisableNoise.",
        )
    trajectory = plan.trajectory
    noisiest = half_done(model, trajectory.states[-1].float(), trajectory.schedule.levels[-1])
    own = (plan.picture, model.model.process_latent_out(noisiest))
    given = latent.cpu().float()
    if not any(float((given - one).norm()) <= SAME_PICTURE * float(one.norm()) for one in own):
        raise TrajectoryMismatch.of(
            "latent_image",
            "is not of the trajectory's picture",
            "another latent",
            "the picture's own, or NMG Invert's latent",
            "Connect the latent that NMG Invert took, or the one it gives.",
        )


def check_free(plan: SamplingPlan, sigmas: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raises InvalidInput if a run wants more of a sampler than steps along predicted noise."""
    check_moves_nothing(plan.guidance)
    if plan.editor is not None:
        raise _wants_our_sampler("editor", "puts a source branch beside the edit", "an editor")
    if mask is not None or plan.trajectory.noise_mask is not None:
        raise _wants_our_sampler(
            "noise mask", "is kept by the noise maps and not by a half-done latent", "a noise mask"
        )
    schedule = plan.trajectory.schedule
    if schedule.start != len(schedule.levels) - 1:
        raise _wants_our_sampler(
            "trajectory", "is entered below its last state", f"schedule '{schedule.name}'"
        )
    if is_pure_noise(schedule.levels[-1]):
        raise _wants_our_sampler(
            "trajectory",
            "starts at pure noise, where other samplers leave nothing of a latent",
            f"schedule '{schedule.name}'",
        )
    own = sigmas_of(schedule)
    strange = sorted(set(sigmas.tolist()) - set(own.tolist()))
    if strange:
        raise InvalidInput.of(
            "sigmas",
            "are not those of the trajectory",
            f"{len(strange)} others, the lowest {strange[0]:.6g}",
            f"some of the {len(own)} from {float(own[0]):.6g} to {float(own[-1]):.6g}",
            "Connect the sigmas of NMG Sampler, whole or split.",
        )


def _wants_our_sampler(name: str, problem: str, got: str) -> InvalidInput:
    return InvalidInput.of(
        name,
        f"{problem}, which only NMG Sampler does",
        f"{got} with another sampler",
        "the sampler and the sigmas of NMG Sampler",
        "Connect these, or leave it out.",
    )
