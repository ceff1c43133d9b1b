"""Noise Map Guidance, arXiv 2402.04625 (ICLR 2024), and a one-step form of it that is ours.

In the paper's letters, z a variance preserving state, z* the recorded one, s_g the gradient scale,
s_N the noise map scale, s_T the text scale:

    z' = DDIM(z, eps(z, null))                                    one unconditional step
    eps_N = eps(z, null) + s_N * s_g * sqrt(1 - abar) * dE/dz     E = |z' - z*|, noise map guidance

Only the product s_N * s_g matters, since the second line is linear in both.
"""

from dataclasses import dataclass
from enum import Enum

import torch

from .. import checks
from ..contract.differentiation import differentiable_eps
from ..contract.guidance import Guidance, GuidedRun, Run
from ..contract.predictor import Guided, Prompt, Request
from ..trajectory.levels import ddim_step, step_factors
from ..trajectory.schedule import Step, check_part, is_in_part
from .energy import REFERENCE_ELEMENTS, Loss, energy_slope


class Mode(str, Enum):
    """How the noise map term enters a step."""

    OFFICIAL = "official"  # two sub-steps per level: noise map, then text (the paper)
    FUSED = "fused"  # one step: text guidance plus the noise map term (ours)


class Gradient(str, Enum):
    """How the energy is differentiated."""

    FULL = "full"  # through the step and the network
    DIRECT = "direct"  # through the step alone: the network's Jacobian is dropped, no backward


class Reference(str, Enum):
    """Which recorded state the unconditional step is compared with."""

    CURRENT = "current"  # the one at the level the step starts from (the reference implementation)
    REACHED = "reached"  # the one at the level the step goes to (the paper's equation)


_CHOICES = {"mode": Mode, "gradient": Gradient, "loss": Loss, "reference": Reference}


@dataclass(frozen=True)
class NoiseMapGuidance(Guidance):
    """Noise Map Guidance with its choices.

    Attributes:
        noise_map_scale: s_N, dimensionless, 0 or more.
        gradient_scale: s_g, dimensionless, 0 or more; defined for an energy that is a sum over one
            sample divided by 16384, so that it means the same at every latent size and batch.
        mode, gradient, loss, reference: see the enumerations.
        start, end: fractions of the run between which the method acts, 0 the noisiest end.
        inside, outside: factors of the scale where the mask is 1 and where it is 0; without a mask
            neither applies.
        every: it acts in the steps 0, every, 2 every, ... of the run, 1 or more.
        falloff: how much of the scale is gone at the end of the run, 0..1, linearly from its
            beginning; 0 keeps it constant.
        blend: how far each state is moved to the recorded one where the mask is 0, 0..1: at 1 it
            is the picture there; without a mask it does nothing.

    Raises:
        InvalidInput: a number leaves its range, is not finite, or start >= end.
    """

    noise_map_scale: float
    gradient_scale: float
    mode: Mode
    gradient: Gradient
    loss: Loss = Loss.L1
    reference: Reference = Reference.REACHED
    start: float = 0.0
    end: float = 1.0
    inside: float = 0.2
    outside: float = 10.0
    every: int = 1
    falloff: float = 0.0
    blend: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            object.__setattr__(self, name, checks.choice(name, getattr(self, name), choices))
        for name in ("noise_map_scale", "gradient_scale", "inside", "outside"):
            checks.strength(name, getattr(self, name))
        check_part(self.start, self.end)
        checks.count("every", self.every, 1, "1 is every step.")
        checks.share("falloff", self.falloff, "0 keeps the scale constant.")
        checks.share("blend", self.blend, "0 leaves the states as they are.")

    masks_in_prediction = True

    @property
    def moves_states(self) -> bool:
        """Whether it takes sub-steps of its own, or puts the picture back after the steps."""
        return self.mode is Mode.OFFICIAL or self.blend > 0

    def begin(self, run: Run) -> GuidedRun:
        return (_Official if self.mode is Mode.OFFICIAL else _Fused)(self, run)

    @property
    def scale(self) -> float:
        """s_N * s_g per element of the energy's sum."""
        return self.noise_map_scale * self.gradient_scale / REFERENCE_ELEMENTS


def official_guidance(noise_map_scale: float, gradient_scale: float) -> NoiseMapGuidance:
    """What the published implementation does: two sub-steps, full gradient, l1, its reference."""
    return NoiseMapGuidance(
        noise_map_scale, gradient_scale, Mode.OFFICIAL, Gradient.FULL, reference=Reference.CURRENT
    )


def fused_guidance(noise_map_scale: float, gradient_scale: float) -> NoiseMapGuidance:
    """Our one-step form at the cost of plain text guidance: no backward pass."""
    return NoiseMapGuidance(noise_map_scale, gradient_scale, Mode.FUSED, Gradient.DIRECT)


class _NoiseMapRun(GuidedRun):
    """What both modes share: the unconditional prediction and the noise map term."""

    def __init__(self, guidance: NoiseMapGuidance, run: Run) -> None:
        super().__init__(run)
        self.guidance = guidance
        self.weight: float | torch.Tensor = guidance.scale
        if run.mask is not None:
            self.weight = guidance.scale * (
                guidance.outside + (guidance.inside - guidance.outside) * run.mask
            )
        # Looked at once per run: on a device the answer has to be waited for.
        self.pushes = bool(torch.as_tensor(self.weight).any())

    def settle(self, x: torch.Tensor, step: Step, eps: torch.Tensor) -> torch.Tensor:
        if self.run.mask is None or self.guidance.blend == 0:
            return x
        held = x[self.run.branches.held_rows]
        share = self.guidance.blend * (1 - self.run.mask)
        # Not x + share * difference, which at share 1 would be the recorded state but for a bit.
        mixed = (1 - share) * held + share * self.run.recorded(step.entry_to, like=held)
        return self.run.branches.with_held(x, mixed)

    def acts(self, step: Step) -> bool:
        """Whether `step` lies in the method's part of the run."""
        guidance, total = self.guidance, self.run.total
        in_turn = step.index % guidance.every == 0
        return in_turn and is_in_part(step, total, guidance.start, guidance.end)

    def unconditional(self, x: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps under the negative prompt, the noise map term to add to it)."""
        if self.guidance.gradient is Gradient.DIRECT:
            eps = self.negative(x, step)
            return eps, self.term(x, eps, step)
        predictor, held = self.run.predictor, self.run.branches.held
        eps, pullback = differentiable_eps(predictor, x, step.level, Prompt.NEGATIVE, held)
        scale, shift = step_factors(step.level, step.level_to)
        slope = self.slope(x, eps, step)
        # Chain rule through z' = scale * z + shift * eps(z).
        return eps, self.weighted(scale * slope + pullback(shift * slope), step)

    def negative(self, held: torch.Tensor, step: Step) -> torch.Tensor:
        """The unconditional prediction of the held rows, in a call of its own."""
        rows = self.run.branches.held
        return self.run.predictor.eps(held, step.level, Prompt.NEGATIVE, rows=rows)

    def term(self, x: torch.Tensor, eps: torch.Tensor, step: Step) -> torch.Tensor:
        """The noise map term with the network's Jacobian dropped."""
        scale, _ = step_factors(step.level, step.level_to)
        return self.weighted(scale * self.slope(x, eps, step), step)

    def slope(self, x: torch.Tensor, eps: torch.Tensor, step: Step) -> torch.Tensor:
        """dE/dz' at the result z' of the unconditional step."""
        current = self.guidance.reference is Reference.CURRENT
        reference = self.run.recorded(step.entry if current else step.entry_to, like=x)
        reached = ddim_step(x, eps, step.level, step.level_to)
        return energy_slope(reached, reference, self.guidance.loss)

    def weighted(self, gradient: torch.Tensor, step: Step) -> torch.Tensor:
        """s_N * s_g * sqrt(1 - abar) * dE/dz, the scales as they are in this step."""
        left = 1 - self.guidance.falloff * step.index / self.run.total
        return self.weight * step.level.sigma * left * gradient


class _Official(_NoiseMapRun):
    """Two sub-steps: the noise map step's result is taken to be at the level it started from."""

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        if not self.acts(step):
            return super().prepare(x, step)
        held = x[self.run.branches.held_rows]
        if not self.pushes:
            eps = self.negative(held, step)
        else:
            null, term = self.unconditional(held, step)
            eps = null + term
        moved = ddim_step(held, eps, step.level, step.level_to)
        return super().prepare(self.run.branches.with_held(x, moved), step)


class _Fused(_NoiseMapRun):
    """One step along text guidance plus the noise map term; both share the negative prediction."""

    def __init__(self, guidance: NoiseMapGuidance, run: Run) -> None:
        super().__init__(guidance, run)
        # Text guidance yields the negative prediction, but without a graph.
        self.shares = guidance.gradient is Gradient.DIRECT
        # The noise map term of the step in progress, from `prepare` to `correct`.
        self.pending: torch.Tensor | None = None

    def acts(self, step: Step) -> bool:
        return self.pushes and super().acts(step)

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        request = super().prepare(x, step)
        if not self.acts(step):
            return request
        if self.shares:
            return request._replace(needs_negative=True)
        negative, self.pending = self.unconditional(x[self.run.branches.held_rows], step)
        # An editor wants to see the source's unconditional attention as well: ask for it again.
        return request if self.run.branches.with_source else request._replace(negative=negative)

    def correct(self, x: torch.Tensor, step: Step, guided: Guided) -> torch.Tensor:
        if not self.acts(step):
            return guided.eps
        rows = self.run.branches.held_rows
        if self.shares:
            known = guided.negative
            # An editor or a patch at a scale that counts as 1, or a cached answer.
            negative = self.negative(x[rows], step) if known is None else known[rows]
            self.pending = self.term(x[rows], negative, step)
        term, self.pending = self.pending, None
        return self.run.branches.with_held(guided.eps, guided.eps[rows] + term)
