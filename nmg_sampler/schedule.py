"""Schedules: the levels of a trajectory, and where the network is asked on the way up and down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InvalidInput
from .levels import NoiseLevel, level_from_alpha_bar, level_from_k_sigma


@dataclass(frozen=True)
class Step:
    """One sampling step, from trajectory entry `entry` down to entry `entry_to`."""

    index: int
    entry: int
    entry_to: int
    level: NoiseLevel
    level_to: NoiseLevel


@dataclass(frozen=True)
class Schedule:
    """The levels of a trajectory and the labels used to make it and to sample back.

    Attributes:
        name: what the user chose, such as "official" or a scheduler of the host.
        levels: T + 1 levels, strictly ascending; level 0 is where the source latent is said to be.
        query_levels: T levels; inversion step k (entry k -> k + 1) asks the network at
            `query_levels[k]` about the unscaled state k.
        start: index into `levels` of the level from which sampling starts. The last state is
            relabelled to it without rescaling (the reference implementation starts one level
            below the one its last state was made at).
    """

    name: str
    levels: tuple[NoiseLevel, ...]
    query_levels: tuple[NoiseLevel, ...]
    start: int

    def __post_init__(self) -> None:
        ratios = [level.k_sigma for level in self.levels]
        for lower, upper in zip(ratios, ratios[1:], strict=False):
            if not lower < upper:
                raise InvalidInput.of(
                    "schedule",
                    "does not ascend",
                    f"sigma {lower:.6g} followed by {upper:.6g}",
                    "every level noisier than the one below it",
                    "Use fewer steps or another schedule.",
                )
        if any(level.sigma == 0 for level in self.query_levels):
            raise InvalidInput.of(
                "schedule",
                "asks the network where there is no noise",
                "a query level of sigma 0",
                "query levels above 0",
                "Ask at the level a step goes to.",
            )
        if len(self.query_levels) != len(self.levels) - 1 or not 0 < self.start < len(self.levels):
            raise InvalidInput.of(
                "schedule",
                "is inconsistent",
                f"{len(self.levels)} levels, {len(self.query_levels)} queries, start {self.start}",
                "one query fewer than levels, and a start among the levels",
                "Make it with one of the functions of nmg_sampler.schedule.",
            )

    def descent(self) -> tuple[Step, ...]:
        """The sampling steps, noisiest first."""
        entries = range(self.start, 0, -1)
        return tuple(
            Step(index, entry, entry - 1, self.levels[entry], self.levels[entry - 1])
            for index, entry in enumerate(entries)
        )


def official_schedule(alphas_bar: Sequence[float], steps: int) -> Schedule:
    """The schedule of the published NMG notebooks (diffusers 0.18): source labels.

    Level k is alphas_bar[min(k * (n // steps), n - 1)], k = 0..steps. The inversion asks at the
    level the state is at; sampling starts one level below the last. The reference's final step
    goes from level 0 to level 0 and changes nothing; it is left out.

    Args:
        alphas_bar: cumulative products of 1 - beta, one per training timestep (SD 1.x: 1000).
        steps: at least 2 (with 1 the reference returns the noise itself), at most len(alphas_bar).

    Raises:
        InvalidInput: steps out of range.
    """
    stride = _stride(alphas_bar, steps, minimum=2)
    # With one step per timestep the last two levels would be one.
    last = len(alphas_bar) - 1
    levels = _levels(alphas_bar, [min(k * stride, last) for k in range(steps + 1)])
    return Schedule("official", levels, levels[:-1], start=steps - 1)


def official_masactrl_schedule(alphas_bar: Sequence[float], steps: int) -> Schedule:
    """The schedule of MasaCtrl, Null-Text Inversion and most papers: destination labels.

    Levels are alphas_bar[0] and alphas_bar[1 + k * (n // steps)], k = 0..steps - 1. The inversion
    asks at the level that the step goes to, about the unscaled lower state.

    Args:
        alphas_bar: cumulative products of 1 - beta, one per training timestep.
        steps: at least 1, fewer than len(alphas_bar).

    Raises:
        InvalidInput: steps out of range.
    """
    stride = _stride(alphas_bar, steps, minimum=1)
    levels = _levels(alphas_bar, [0] + [1 + k * stride for k in range(steps)])
    return Schedule("official-masactrl", levels, levels[1:], start=steps)


def schedule_from_sigmas(name: str, sigmas: Sequence[float]) -> Schedule:
    """A schedule over k-diffusion sigmas, noisiest first as samplers take them; VP models.

    The inversion asks at the level that each step goes to, so the lowest sigma may be 0.

    Args:
        name: shown to the user and kept in the trajectory.
        sigmas: at least 2, finite, not negative, strictly descending.

    Raises:
        InvalidInput: any of these does not hold.
    """
    sigmas = [float(sigma) for sigma in sigmas]
    if len(sigmas) < 2:
        raise InvalidInput.of(
            "sigmas", "are too few", f"{len(sigmas)}", "at least 2", "Use 1 step or more."
        )
    for index, sigma in enumerate(sigmas):
        if not math.isfinite(sigma) or sigma < 0:
            raise InvalidInput.of(
                "sigmas",
                "hold a number that is no noise level",
                f"{sigma} at index {index}",
                "finite numbers, 0 or more",
                "Check the node that made them.",
            )
        if index and not sigma < sigmas[index - 1]:
            raise InvalidInput.of(
                "sigmas",
                "do not descend",
                f"{sigmas[index - 1]:.6g} before {sigma:.6g} at index {index}",
                "each smaller than the one before (noisiest first, as schedulers give them)",
                "Leave FlipSigmas out: the inversion turns them round itself.",
            )
    levels = tuple(level_from_k_sigma(sigma) for sigma in reversed(sigmas))
    return Schedule(name, levels, levels[1:], start=len(levels) - 1)


def _stride(alphas_bar: Sequence[float], steps: int, minimum: int) -> int:
    if not minimum <= steps < len(alphas_bar):
        raise _wrong_steps(steps, f"{minimum} to {len(alphas_bar) - 1}")
    return len(alphas_bar) // steps


def _wrong_steps(steps: int, expected: str) -> InvalidInput:
    return InvalidInput.of(
        "steps", "cannot be spread over the model's timesteps", steps, expected, "50 is usual."
    )


def _levels(alphas_bar: Sequence[float], timesteps: Sequence[int]) -> tuple[NoiseLevel, ...]:
    return tuple(level_from_alpha_bar(float(alphas_bar[t])) for t in timesteps)
