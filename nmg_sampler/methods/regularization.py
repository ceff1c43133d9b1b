"""pix2pix-zero's regularised inversion, arXiv 2302.03027, sec. 3.2: predicted noise made whiter.

DDIM inversion predicts noise that keeps traces of the picture: neighbours are alike, and mean and
variance are off. Between prediction and step it goes down the gradient of two losses that are 0 on
white noise. Both are per sample, both gradients are in closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d, interpolate

from .. import checks
from ..errors import InvalidInput

Shifts = Sequence[tuple[int, int]]  # (down, across) in cells, per level of the pyramid

# The pyramid halves the noise until its shorter side is this long or shorter, in cells.
COARSEST = 8

# Under the logarithm of L_kl: keeps constant noise finite (the published code's number).
VARIANCE_FLOOR = 1e-7


@dataclass(frozen=True)
class NoiseRegularization:
    """How far predicted noise goes down the gradients of L_ac and L_kl.

    Both gradients are means over a sample, of the order of 1 / elements, so that the same strengths
    move a small latent further. At 4x64x64 they are gentle: five updates by L_kl at 20 take a
    standard deviation of 2 to 1.982; at 4x16x16 to 1.73, at 4x8x8 to 1.23. Below 8x8 cells, where
    they would overshoot, the strengths shrink with the number of cells.

    Attributes:
        iterations: rounds per step, each `rolls` updates by L_ac and one by L_kl; 0 is neutral.
        auto_correlation: lambda_ac, dimensionless; each roll goes lambda_ac / rolls.
        kl: lambda_kl, dimensionless.
        rolls: random shifts per round that L_ac is taken at, 1 or more.

    Raises:
        InvalidInput: a count is too small, or a strength is negative or not finite.
    """

    iterations: int = 5
    auto_correlation: float = 20.0
    kl: float = 20.0
    rolls: int = 5

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("rolls", 1)):
            checks.count(name, getattr(self, name), least, "pix2pix-zero takes 5.")
        for name in ("auto_correlation", "kl"):
            checks.strength(name, getattr(self, name), "pix2pix-zero takes 20.")

    def __call__(self, eps: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The whiter noise.

        Args:
            eps: (B, C, h, w) floating, predicted noise; never written to.
            generator: on the CPU; draws the shifts, the same for all samples and channels.

        Returns:
            Shape, dtype and device of `eps`.

        Raises:
            InvalidInput: `eps` is of another shape.
        """
        if eps.ndim != 4:
            raise InvalidInput.of(
                "regularize",
                "works on latents of single pictures",
                tuple(eps.shape),
                "(batch, channels, height, width)",
                "Set it to 0 for this model.",
            )
        # In half precision the updates would be lost: they are far below its rounding.
        x = eps.to(torch.promote_types(eps.dtype, torch.float32))
        height, width = x.shape[2:]
        share = min(1.0, height * width / COARSEST**2)
        rate, kl = share * self.auto_correlation / self.rolls, share * self.kl
        for _ in range(self.iterations):
            for _ in range(self.rolls):
                shifts = draw_shifts(height, width, generator)
                x = x - rate * auto_correlation_gradient(x, shifts)
            x = x - kl * kl_gradient(x)
        return x.to(eps.dtype)


def draw_shifts(height: int, width: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Random shifts for a pyramid whose finest level is (height, width): [1, side / 2) each.

    Never 0, which compares the noise with itself and so penalises its power. Plain integers: a
    GPU does not wait for them.
    """
    shifts = []
    while True:
        shifts.append((_draw(height, generator), _draw(width, generator)))
        if min(height, width) <= COARSEST:
            return shifts
        height, width = height // 2, width // 2


def auto_correlation(eps: torch.Tensor, shifts: Shifts) -> torch.Tensor:
    """L_ac of each sample: (B,), from (B, C, h, w) noise; 0 where shifted noise is unrelated to it.

    Equation: the pairwise term of arXiv 2302.03027, sec. 3.2, as its code takes it: summed over
    channels and over a pyramid of 2x2 means, at one random shift down and one across per level.
    An odd last row or column does not enter the next level.
    """
    total, noise = eps.new_zeros(len(eps)), eps
    for level, shift in enumerate(shifts):
        noise = avg_pool2d(noise, 2) if level else noise
        for axis, cells in _axes(noise, shift):
            total = total + _correlation(noise, axis, cells).square().sum((1, 2, 3))
    return total


def auto_correlation_gradient(eps: torch.Tensor, shifts: Shifts) -> torch.Tensor:
    """d auto_correlation / d eps, the shape of `eps`."""
    gradient = torch.zeros_like(eps)
    for axis, shift in _axes(eps, shifts[0]):
        around = eps.roll(shift, axis) + eps.roll(-shift, axis)
        gradient += 2 * _correlation(eps, axis, shift) * around / eps[0, 0].numel()
    if len(shifts) > 1:
        coarse = auto_correlation_gradient(avg_pool2d(eps, 2), shifts[1:])
        # The adjoint of the mean over 2x2 cells.
        spread = interpolate(coarse, scale_factor=2) / 4
        gradient[..., : spread.shape[-2], : spread.shape[-1]] += spread
    return gradient


def kl_divergence(eps: torch.Tensor) -> torch.Tensor:
    """L_kl of each sample: (B,), from (B, ...) noise; 0 at mean 0 and variance 1.

    Equation: arXiv 2302.03027, sec. 3.2: twice the Kullback-Leibler divergence of a normal
    distribution with the sample's mean and (unbiased) variance from the standard one.
    """
    variance, mean = torch.var_mean(eps.flatten(1), 1)
    return variance + mean.square() - 1 - torch.log(variance + VARIANCE_FLOOR)


def kl_gradient(eps: torch.Tensor) -> torch.Tensor:
    """d kl_divergence / d eps, the shape of `eps`: of the order of 1 / elements of a sample."""
    variance, mean = torch.var_mean(eps, tuple(range(1, eps.ndim)), keepdim=True)
    count = eps[0].numel()
    slope = 1 - 1 / (variance + VARIANCE_FLOOR)
    return 2 * slope * (eps - mean) / (count - 1) + 2 * mean / count


def _draw(side: int, generator: torch.Generator) -> int:
    return int(torch.randint(1, max(2, side // 2), (), generator=generator))


def _axes(noise: torch.Tensor, shift: tuple[int, int]) -> list[tuple[int, int]]:
    """(axis, shift) of both directions, without one that is a single cell long."""
    return [(axis, shift[axis]) for axis in (-2, -1) if noise.shape[axis] > 1]


def _correlation(noise: torch.Tensor, axis: int, shift: int) -> torch.Tensor:
    """Mean of the noise times the shifted noise: (B, C, 1, 1)."""
    return (noise * noise.roll(shift, axis)).mean((-2, -1), keepdim=True)
