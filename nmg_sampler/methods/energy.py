"""The distance between a state and its recorded reference, and the derivative of it."""

from enum import Enum

import torch

# The gradient scale is defined where the reference uses it: 512 x 512 on SD 1.x, whose latent has
# 4 * 64 * 64 elements and whose energy is a mean. Dividing by this constant instead of the actual
# count makes the same number the same push at every size and batch.
REFERENCE_ELEMENTS = 16384

# Below this distance, in latent units, smooth_l1 is quadratic (the reference's setting).
SMOOTH_L1_BETA = 1e-4


class Loss(str, Enum):
    """Which distance: arXiv 2402.04625 uses l1; its code offers the other two."""

    L1 = "l1"
    L2 = "l2"
    SMOOTH_L1 = "smooth_l1"


def energy(x: torch.Tensor, reference: torch.Tensor, loss: Loss) -> torch.Tensor:
    """One sum of element distances per sample: (B,), from two (B, C, ...) states of one level.

    Equation: E of arXiv 2402.04625 (l1), in the variance preserving space of the paper.
    """
    # Half precision would overflow: a sum over thousands of elements.
    difference = (x - reference).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    magnitude = difference.abs()
    if loss == Loss.L1:
        return magnitude.sum(1)
    if loss == Loss.L2:
        return difference.square().sum(1)
    quadratic = difference.square() * (0.5 / SMOOTH_L1_BETA)
    linear = magnitude - 0.5 * SMOOTH_L1_BETA
    return torch.where(magnitude < SMOOTH_L1_BETA, quadratic, linear).sum(1)


def energy_slope(x: torch.Tensor, reference: torch.Tensor, loss: Loss) -> torch.Tensor:
    """d energy / d x, the shape of `x`; dimensionless for l1 and smooth_l1, latent units for l2."""
    difference = x - reference
    if loss == Loss.L1:
        return difference.sign()
    if loss == Loss.L2:
        return 2 * difference
    return (difference / SMOOTH_L1_BETA).clamp(-1, 1)
