"""Schedules: the levels of a trajectory, and where the network is asked on the way up and down.

A part of a run is a fraction of its steps, 0 the noisiest end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from .levels import Family, NoiseLevel, level_from_alpha_bar, level_from_sigma

_USUAL_STEPS = 50


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
                "Make it with one of the functions of nmg_sampler.trajectory.",
            )

    @property
    def family(self) -> Family:
        """Of the models that it is for."""
        return self.levels[-1].family

    def entries_by_noise(self, low: float, high: float, count: int) -> tuple[int, ...]:
        """At most `count` entries whose states are between so much noise, ascending, never 0.

        By noise and not by number, since schedules spread their levels unlike: the entries nearest
        to `count` ratios that are evenly spaced in the logarithm.

        Args:
            low, high: noise over picture (`NoiseLevel.noise_ratio`), above 0.
            count: 1 or more; 1 is the middle.
        """
        entries = range(1, len(self.levels))
        shares = [k / (count - 1) for k in range(count)] if count > 1 else [0.5]
        wanted = [low * (high / low) ** share for share in shares]

        def distance(entry: int, ratio: float) -> float:
            return abs(math.log(self.levels[entry].noise_ratio / ratio))

        return tuple(sorted({min(entries, key=lambda e: distance(e, r)) for r in wanted}))

    def descent(self) -> tuple[Step, ...]:
        """The sampling steps, noisiest first."""
        entries = range(self.start, 0, -1)
        return tuple(
            Step(index, entry, entry - 1, self.levels[entry], self.levels[entry - 1])
            for index, entry in enumerate(entries)
        )


def check_part(start: float, end: float) -> None:
    """Raises InvalidInput unless 0 <= start < end <= 1."""
    if not 0 <= start < end <= 1:
        raise InvalidInput.of(
            "start and end",
            "are no part of a run",
            f"{start} to {end}",
            "0 <= start < end <= 1",
            "0 to 1 is the whole run.",
        )


def is_in_part(step: Step, total: int, start: float, end: float) -> bool:
    """Whether `step` of `total` lies in the part from `start` up to `end`."""
    return start <= step.index / total < end


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
    table = _levels(alphas_bar)
    stride = _stride(len(table), steps, minimum=2)
    # With one step per timestep the last two levels would be one.
    levels = tuple(table[min(k * stride, len(table) - 1)] for k in range(steps + 1))
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
    return evenly_spaced_schedule("official-masactrl", _levels(alphas_bar), steps)


def evenly_spaced_schedule(name: str, table: Sequence[NoiseLevel], steps: int) -> Schedule:
    """Levels evenly spaced over a model's timesteps, destination labels.

    Levels are table[0] and table[1 + k * (n // steps)], k = 0..steps - 1. The inversion asks at the
    level that the step goes to.

    Args:
        name: shown to the user and kept in the trajectory.
        table: one level per training timestep, ascending.
        steps: at least 1, fewer than there are timesteps.

    Raises:
        InvalidInput: steps out of range.
    """
    stride = _stride(len(table), steps, minimum=1)
    levels = (table[0], *(table[1 + k * stride] for k in range(steps)))
    return Schedule(name, levels, levels[1:], start=steps)


def schedule_from_sigmas(
    name: str, sigmas: Sequence[float], family: Family = Family.VP
) -> Schedule:
    """A schedule over ComfyUI's sigmas, noisiest first as samplers take them.

    The inversion asks at the level that each step goes to, so the lowest sigma may be 0.

    Args:
        name: shown to the user and kept in the trajectory.
        sigmas: at least 2, finite, not negative, strictly descending; of a flow at most 1.
        family: of the model that the sigmas were made for.

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
    levels = tuple(level_from_sigma(sigma, family) for sigma in reversed(sigmas))
    return Schedule(name, levels, levels[1:], start=len(levels) - 1)


def _stride(timesteps: int, steps: int, minimum: int) -> int:
    if not minimum <= steps < timesteps:
        raise InvalidInput.of(
            "steps",
            "cannot be spread over the model's timesteps",
            steps,
            f"{minimum} to {timesteps - 1}",
            usual_steps(timesteps),
        )
    return timesteps // steps


def usual_steps(timesteps: int) -> str:
    """What to do about a wrong number of steps, for a model of so many training timesteps."""
    if timesteps > _USUAL_STEPS:
        return f"{_USUAL_STEPS} is usual."
    return (
        f"This model has {timesteps} timesteps, as those distilled for few steps do: take 4 to 8"
        " steps with it, and a text_scale of 1 to 2."
    )


def _levels(alphas_bar: Sequence[float]) -> tuple[NoiseLevel, ...]:
    return tuple(level_from_alpha_bar(float(alpha_bar)) for alpha_bar in alphas_bar)
