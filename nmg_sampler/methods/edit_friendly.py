"""Edit-Friendly DDPM inversion, arXiv 2304.06140: a picture as the noise of a random run.

The states are not a path: each is the picture with fresh noise of its own (eq. 6),

    x_t = alpha_t x0 + sigma_t n_t        n_t ~ N(0, 1), independent of all others

and what carries the picture is the noise that DDPM sampling would need to go from one to the next
(eq. 5), z_t = (x_{t-1} - mu(x_t)) / sigma_eta. These z are larger than white noise and keep the
layout; sampling with them under another prompt edits.

In our levels, with r = (sigma' / alpha') / (sigma / alpha) of a step from (alpha, sigma) down to
(alpha', sigma'), DDPM is the DDIM step with eta 1 (arXiv 2010.02502, eq. 12 and 16):

    sigma_eta = sigma' sqrt(1 - r^2)      sqrt(sigma'^2 - sigma_eta^2) = sigma' r
    mu(x) = alpha' x0_hat + sigma' r eps = DDIM(x, eps) - sigma' (1 - r) eps

Only an eta of 1 is offered: there the published code, whose direction has eta sigma^2 in the place
of eta^2 sigma^2, agrees with the equation.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from .. import checks
from ..contract.branches import Branches
from ..contract.events import OnStep, StepEvent, check_finite
from ..contract.guidance import Guidance, GuidedRun, Run
from ..contract.predictor import Predictor, Request
from ..errors import InvalidInput
from ..trajectory.drawing import draw_states
from ..trajectory.levels import Family, ddim_step, eps_to_x0
from ..trajectory.recorded import Record, RecordedStates
from ..trajectory.schedule import Schedule, Step
from ..trajectory.trajectory import Trajectory

# The extra of a trajectory that holds the noise per step.
STEP_NOISE = "edit_friendly_noise"


class EditFriendlyInversion(NamedTuple):
    """What `invert_edit_friendly` finds; both in the dtype of the picture, on the CPU."""

    states: torch.Tensor  # (T + 1, B, C, ...) of a trajectory; entry 0 is the picture
    noise: torch.Tensor  # (T, B, C, ...) z of the step down to entry k, for its extras; 0 at k = 0


def skip_noisiest(schedule: Schedule, skip: int) -> Schedule:
    """The schedule without its `skip` noisiest steps: they are neither inverted nor sampled.

    Sampling starts at its last level, whose state is drawn at it: nothing is relabelled.

    Args:
        skip: 0 or more, fewer than the steps; the published run skips 36 of 100.

    Raises:
        InvalidInput: no step is left, or it is the schedule of a flow model.
    """
    if schedule.family is Family.FLOW:
        raise InvalidInput.of(
            "Edit-Friendly Inversion",
            "needs the noise between the steps of DDPM, and a flow has none",
            "a flow model",
            "a model with eps or v prediction: SD 1.x, SD 2.x or SDXL",
            "Use NMG Invert.",
        )
    steps = len(schedule.query_levels)
    if not 0 <= skip < steps:
        raise InvalidInput.of(
            "skip",
            "leaves no step" if skip > 0 else "is no step count",
            f"{skip} of {steps} steps",
            f"0 to {steps - 1}",
            "A third of the steps is usual.",
        )
    kept = steps - skip
    levels = schedule.levels[: kept + 1]
    # Here the network is asked about the state a step comes down from, at that state's own level.
    return replace(schedule, levels=levels, query_levels=levels[1:], start=kept)


@torch.no_grad()
def invert_edit_friendly(
    x0: torch.Tensor,
    schedule: Schedule,
    predictor: Predictor,
    text_scale: float,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> EditFriendlyInversion:
    """States with independent noise, and the noise that steps down through them (algorithm 1).

    Each state is put where its step arrives before the next one is looked at, so that rounding does
    not add up, and the noise of the last step is zeroed, as published: sampling back under the same
    prompt and scale gives every state, and in place of the picture the mean of the last step.

    Args:
        x0: (B, C, ...) floating, the source latent, taken to be at `schedule.levels[0]`.
        schedule: T steps, of `skip_noisiest`.
        predictor: with the SOURCE prompt bound as the positive one, and the negative prompt. Asked
            T - 1 times for two rows per sample, or one if the scale is 1.
        text_scale: classifier-free guidance scale, dimensionless, 0 or more; 3.5 is published.
        generator: on the CPU. A picture's noise depends on its place in the batch, but neither on
            the size of the batch nor on how many steps are skipped.
        on_step: called after each step, the noisiest first.

    Raises:
        InvalidInput: the scale is negative or not finite.
        NotFinite: the model answered with NaN or infinity.
    """
    checks.strength("source_scale", text_scale, "1 is no guidance.")
    steps = schedule.descent()
    total = len(steps)
    drawn = RecordedStates(draw_states(x0, schedule, generator))
    states, noise = Record(total + 1, like=x0), Record(total, like=x0)
    x = drawn.at(total, like=x0).clone()  # a predictor that writes in place must not reach it
    states.keep(total, x)
    for step in steps[:-1]:
        eps = predictor.guided(Request(x, step.level, text_scale)).eps
        check_finite(eps, "prediction", step.index, total, step.level)
        predicted = eps_to_x0(x, eps, step.level)
        mean, deviation = ddpm_step(ddim_step(x, eps, step.level, step.level_to), eps, step)
        z = (drawn.at(step.entry_to, like=x) - mean) / deviation
        x = mean + deviation * z
        noise.keep(step.entry_to, z)
        states.keep(step.entry_to, x)
        if on_step is not None:
            on_step(StepEvent(step.index, total, step.level_to, x, predicted))
    # The last step leads to the picture and has no noise: there is nothing to ask about it.
    states.keep(0, x0)
    noise.keep(0, torch.zeros_like(x0))
    if on_step is not None:
        on_step(StepEvent(total - 1, total, schedule.levels[0], x0, x0))
    return EditFriendlyInversion(states.complete(), noise.complete())


def ddpm_step(ddim: torch.Tensor, eps: torch.Tensor, step: Step) -> tuple[torch.Tensor, float]:
    """(mean, standard deviation) of where DDPM goes, from where DDIM goes along the same noise."""
    share = step.level_to.k_sigma / step.level.k_sigma
    deviation = step.level_to.sigma * math.sqrt(1 - share**2)
    return ddim - step.level_to.sigma * (1 - share) * eps, deviation


@dataclass(frozen=True)
class EditFriendly(Guidance):
    """DDPM sampling with the noise that an Edit-Friendly inversion found.

    All branches share it: an editor's source branch is the picture if the text scale is that of the
    inversion. Where the mask of the run is 0, the state is the recorded one. Costs no model call.
    """

    needs_drawn_states = True
    needs_plain_steps = True

    def check(self, trajectory: Trajectory, branches: Branches) -> None:
        """Raises InvalidInput unless the trajectory holds such noise."""
        super().check(trajectory, branches)
        found = trajectory.extras.get(STEP_NOISE)
        expected = (trajectory.schedule.start, *trajectory.shape)
        if found is None or tuple(found.shape) != expected:
            raise InvalidInput.of(
                "trajectory",
                "is of the wrong kind",
                "one without noise for its steps, as NMG Invert makes it"
                if found is None
                else f"noise of shape {tuple(found.shape)} for {expected}",
                "one with the noise of every step",
                "Connect the trajectory of Edit-Friendly Inversion.",
            )

    def begin(self, run: Run) -> GuidedRun:
        return _EditFriendlyRun(run)


class _EditFriendlyRun(GuidedRun):
    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.noise = RecordedStates(run.trajectory.extras[STEP_NOISE])

    def settle(self, x: torch.Tensor, step: Step, eps: torch.Tensor) -> torch.Tensor:
        mean, deviation = ddpm_step(x, eps, step)
        z = self.run.branches.repeat(self.noise.at(step.entry_to, like=x))
        return super().settle(mean + deviation * z, step, eps)
