"""A run in the two halves that SamplerCustomAdvanced takes: a guider and a sampler."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import HeldPrediction, InvalidInput, Step, StepEvent, Trajectory
from ....nmg_sampler.trajectory import eps_to_x0, k_to_state
from ..api.speaking import speaking_as
from ..models.latent_masks import latent_mask
from .custom_sampling_checks import check_free, check_pair, check_size, check_start, sigmas_of
from .guider import BranchGuider
from .plan import SamplingPlan
from .predictor import HostPredictor
from .procedure import LibrarySampler


class TrajectorySampler(comfy.samplers.Sampler):
    """Names the trajectory that a `TrajectoryGuider` walks; no other guider knows how to."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory

    def sample(self, model_wrap: Any, *_args: Any, **_options: Any) -> torch.Tensor:
        """Raises InvalidInput: a TrajectoryGuider puts its own loop in this one's place."""
        with speaking_as("NMG Sampler"):
            raise InvalidInput.of(
                "guider",
                "does not say how to hold the picture",
                f"a {type(model_wrap).__name__}",
                "the guider of NMG Guider",
                "Connect NMG Guider; or, to sample without any hold, keep this guider and the"
                " sigmas and take the sampler euler, which follows them as DDIM does.",
            )


class TrajectoryGuider(BranchGuider):
    """Text guidance, and with it all that a run from a trajectory is: see `SamplingPlan`.

    With a `TrajectorySampler` it is the run of NMG Sample. With any other sampler the latent and
    the steps are that sampler's, and the predicted noise is held to the trajectory.
    """

    def __init__(self, model: ModelPatcher, plan: SamplingPlan) -> None:
        super().__init__(model, plan.conditions, plan.branches)
        self.plan = plan
        self.set_cfg(plan.text_scale)

    def sample(  # the host's own interface
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: comfy.samplers.Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callable[..., None] | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> torch.Tensor:
        """The edits as a LATENT's samples, target after target.

        Raises:
            InvalidInput: what is connected does not make a run; the message says what does.
            NotFinite: the model answered with NaN or infinity.
        """
        plan = self.plan
        with speaking_as("NMG Guider"):
            check_size(plan, latent_image)
            if isinstance(sampler, TrajectorySampler):
                check_pair(plan, sampler.trajectory, sigmas)
                check_start(self.model_patcher, plan, noise, latent_image)
                plan = _with_noise_mask(plan, denoise_mask)

                denoise_mask, latent_image = plan.trajectory.noise_mask, plan.picture
                sampler = _walk(plan)
            else:
                check_free(plan, sigmas, denoise_mask)
                sampler = _HeldSampler(plan, sampler)
            # The host plans its memory, and sizes conditions, by what it is given here.
            repeat = plan.branches.repeat
            started = repeat(noise), repeat(latent_image)
            result = super().sample(
                *started, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
            )
        return result[plan.branches.target_rows]


def _walk(plan: SamplingPlan) -> LibrarySampler:
    """The library's loop along the trajectory."""

    def tell(event: StepEvent, callback: Callable[..., None]) -> None:
        # The last one is the sampler node's denoised_output: the edits and nothing else.
        callback(event.index, event.x0, event.x, event.total)

    return LibrarySampler(plan.job.procedure, plan.columns, tell)


class _HeldSampler(comfy.samplers.Sampler):
    """Another sampler on a model whose predictions are held to the trajectory."""

    def __init__(self, plan: SamplingPlan, sampler: comfy.samplers.Sampler) -> None:
        self.plan = plan
        self.sampler = sampler

    def sample(  # the host's own interface
        self,
        model_wrap: BranchGuider,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None] | None,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        *options: Any,
    ) -> torch.Tensor:
        given = noise, latent_image, denoise_mask
        predictor = HostPredictor.of_run(model_wrap, sigmas, extra_args, *given, self.plan.columns)
        held = _HeldModel(model_wrap, self.plan, predictor)
        return self.sampler.sample(held, sigmas, extra_args, callback, *given, *options)


class _HeldModel:
    """A guider as a sampler sees it, but for its prediction."""

    def __init__(self, guider: BranchGuider, plan: SamplingPlan, predictor: HostPredictor) -> None:
        self._guider = guider
        self._predictor = predictor
        self._held = HeldPrediction(
            plan.trajectory,
            self._predictor,
            plan.guidance,
            plan.text_scale,
            targets=plan.branches.targets,
            device=guider.model_patcher.load_device,
            mask=plan.mask,
        )
        schedule = plan.trajectory.schedule
        starts = sigmas_of(schedule)[:-1].tolist()
        self._steps: dict[float, Step] = dict(zip(starts, schedule.descent(), strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        """The predicted clean latent of `x`, (rows, C, ...) in the scale of the host's samplers."""
        # A sampler tells where it is by this number alone, on the device.
        level = float(sigma[0])
        step = self._steps.get(level)
        if step is None:
            raise InvalidInput.of(
                "sampler",
                "asks for a prediction between the noise maps",
                f"sigma {level:.6g}",
                "the sigmas of NMG Sampler and nothing between or below them",
                "Take NMG Sampler's own, or one that asks at these alone, such as euler.",
            )
        if model_options is not None:  # some samplers look in by a function of their own in it
            self._predictor.model_options = model_options
        state = k_to_state(x, step.level)
        return eps_to_x0(state, self._held(state, step), step.level)


def _with_noise_mask(plan: SamplingPlan, mask: torch.Tensor | None) -> SamplingPlan:
    """The plan with a LATENT's own noise mask, where it has one, in the trajectory's place."""
    if mask is None:
        return plan
    fitted = latent_mask(mask, plan.picture.shape)
    return replace(plan, trajectory=replace(plan.trajectory, noise_mask=fitted))
