"""Noise levels: where on the way between picture and noise a state is."""

import math
from dataclasses import dataclass
from enum import Enum

import torch

from ..errors import InvalidInput


class Family(str, Enum):
    """How a state is made of the picture and of what the network predicts."""

    VP = "vp"  # variance preserving: alpha^2 + sigma^2 = 1, eps is the noise (eps, v prediction)
    FLOW = "flow"  # rectified flow: alpha = 1, eps is the velocity noise - x0 (flow prediction)


@dataclass(frozen=True)
class NoiseLevel:
    """A pair (alpha, sigma), dimensionless: a state is x = alpha * x0 + sigma * eps.

    A rectified flow (arXiv 2209.03003) mixes x = (1 - sigma) x0 + sigma noise, which is
    x0 + sigma (noise - x0): alpha 1 and the velocity in the place of eps. Written like that its
    Euler step is the DDIM step, and nothing is divided by 1 - sigma, which is 0 at its noisiest.

    Raises:
        InvalidInput: a number is not finite, alpha <= 0, or sigma < 0.
    """

    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        finite = math.isfinite(self.alpha) and math.isfinite(self.sigma)
        if not finite or self.alpha <= 0 or self.sigma < 0:
            raise InvalidInput.of(
                "noise level",
                "is impossible",
                f"alpha {self.alpha}, sigma {self.sigma}",
                "finite numbers, alpha > 0, sigma >= 0",
                "Check the sigmas.",
            )

    @property
    def k_sigma(self) -> float:
        """sigma / alpha, what k-diffusion and ComfyUI call sigma; of a flow sigma itself."""
        return self.sigma / self.alpha

    @property
    def family(self) -> Family:
        """Of whose states it is a level; where there is no noise, both have the same."""
        return Family.FLOW if self.alpha == 1 and self.sigma > 0 else Family.VP

    @property
    def noise_ratio(self) -> float:
        """Noise over picture in a state, 0 to infinity: comparable between the families."""
        if self.family is Family.VP:
            return self.k_sigma
        return self.sigma / (1 - self.sigma) if self.sigma < 1 else math.inf


def level_from_alpha_bar(alpha_bar: float) -> NoiseLevel:
    """The VP level with alpha^2 = alpha_bar, the cumulative product of 1 - beta."""
    return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar))


def level_from_k_sigma(k_sigma: float) -> NoiseLevel:
    """The VP level with sigma / alpha = k_sigma."""
    alpha = 1.0 / math.sqrt(1.0 + k_sigma * k_sigma)
    return NoiseLevel(alpha, k_sigma * alpha)


def level_from_flow_sigma(sigma: float) -> NoiseLevel:
    """The level of a rectified flow at which x = (1 - sigma) x0 + sigma noise; sigma 0..1.

    Raises:
        InvalidInput: sigma is above 1.
    """
    if sigma > 1:
        raise InvalidInput.of(
            "sigma",
            "is above that of pure noise",
            sigma,
            "0 to 1 for a flow model",
            "Take sigmas that were made for this model.",
        )
    return NoiseLevel(1.0, sigma)


_FROM_SIGMA = {Family.VP: level_from_k_sigma, Family.FLOW: level_from_flow_sigma}


def level_from_sigma(sigma: float, family: Family) -> NoiseLevel:
    """The level that ComfyUI means by `sigma` with a model of this family.

    Raises:
        InvalidInput: there is none.
    """
    return _FROM_SIGMA[family](sigma)


def k_to_state(x_k: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """k-diffusion's x0 + (sigma/alpha) * eps as a state alpha * x0 + sigma * eps, same shape."""
    return x_k * level.alpha


def state_to_k(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """A state alpha * x0 + sigma * eps as k-diffusion's x0 + (sigma/alpha) * eps, same shape."""
    return x / level.alpha


def x0_to_eps(x: torch.Tensor, x0: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """The noise in state `x` if `x0` is its clean latent; sigma > 0."""
    return (x - level.alpha * x0) / level.sigma


def eps_to_x0(x: torch.Tensor, eps: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """The clean latent of state `x` if `eps` is its noise."""
    return (x - level.sigma * eps) / level.alpha


def add_noise(x0: torch.Tensor, noise: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """The state of clean latent `x0` and white noise at `level`; shapes are equal.

    Of a VP model alpha x0 + sigma noise, of a flow (1 - sigma) x0 + sigma noise.
    """
    if level.family is Family.FLOW:
        return x0 + level.sigma * (noise - x0)
    return level.alpha * x0 + level.sigma * noise


def step_factors(level_from: NoiseLevel, level_to: NoiseLevel) -> tuple[float, float]:
    """(scale, shift) of the DDIM step x' = scale * x + shift * eps; both dimensionless.

    Equation: DDIM, arXiv 2010.02502, eq. 12 with eta 0: x' = alpha' * x0_hat + sigma' * eps.
    The same two factors serve upwards (inversion) and downwards (sampling).
    """
    scale = level_to.alpha / level_from.alpha
    return scale, level_to.sigma - scale * level_from.sigma


def ddim_step(
    x: torch.Tensor, eps: torch.Tensor, level_from: NoiseLevel, level_to: NoiseLevel
) -> torch.Tensor:
    """The state at `level_to` reached from `x` at `level_from` along `eps`; shapes are equal."""
    scale, shift = step_factors(level_from, level_to)
    return scale * x + shift * eps
