"""Masks in pixels: brought to a size, grown or shrunk, feathered. All of them keep soft masks soft.

Masks are (N, H, W) 0..1. Distances are Euclidean, in pixels from centre to centre; nothing grows,
shrinks or fades in from beyond the picture's border.
"""

import math

import torch
from torch.nn.functional import interpolate

from .. import checks
from ..errors import InvalidInput

# Weights of resizing add up to 1 within rounding. What is white in each of them is to stay white.
WHITE = 1 - 1e-6


def fit_mask(name: str, mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask of any size as (N, *size) float32 0..1; the very values if it has that size already.

    Made smaller by antialiased interpolation: thin strokes become grey instead of vanishing.

    Args:
        name: what a message calls it.
        mask: (N, h, w), or (h, w) for one.
        size: (height, width).

    Raises:
        InvalidInput: it holds nothing, or NaN or infinity.
    """
    if mask.ndim < 2 or not mask.numel():
        raise InvalidInput.of(
            name, "is no mask", tuple(mask.shape), "(N, height, width)", "Connect a MASK."
        )
    if not bool(torch.isfinite(mask).all()):
        raise InvalidInput.of(
            name, "is not finite", "NaN or infinity", "numbers from 0 to 1", "Check its source."
        )
    fitted = mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)
    if tuple(fitted.shape[2:]) != tuple(size):
        fitted = interpolate(fitted, size, mode="bilinear", antialias=True).clamp(0, 1)
        fitted = torch.where(fitted > WHITE, 1.0, fitted)
    return fitted[:, 0]


def grow_mask(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """The mask grown by a disc of radius `pixels`, or shrunk by one if that is negative.

    Each pixel becomes the largest (smallest) value within the disc, so a soft mask stays soft.
    What lies outside the picture neither grows in nor shrinks from there.
    """
    if pixels == 0:
        return mask
    return _largest_in_disc(mask, pixels) if pixels > 0 else -_largest_in_disc(-mask, -pixels)


def feather_mask(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """The mask with a soft edge outside it: nowhere less than it was.

    Beside white the values fall evenly with the distance d, as 1 - d / (pixels + 1), and are
    exactly 0 at d > pixels. Beside grey they do so with sqrt(d^2 + a^2) in the place of d, where a
    is the distance at which white has fallen to that grey: less far, and from less.

    Raises:
        InvalidInput: pixels is negative.
    """
    checks.count("feather", pixels, 0, "It counts pixels; 0 is a hard edge.")
    if pixels == 0:
        return mask
    # Squared distances, separable in their axes: first along one of them, then along the other.
    reach = pixels + 1
    nearness = -((reach * (1 - mask)) ** 2)
    for axis in (-1, -2):
        along = nearness.clone()
        for step in range(1, pixels + 1):
            _raise_to_shifted(along, nearness, axis, step, cost=step**2)
        nearness = along
    distance = (-nearness).sqrt()
    edge = torch.where(distance <= pixels, 1 - distance / reach, 0.0)
    return torch.maximum(mask, edge)


def _largest_in_disc(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Row by row of the disc, from its tip to its middle: each row is wider than the last."""
    row, result, width = mask.clone(), mask.clone(), 0
    for distance in range(radius, -1, -1):
        for wider in range(width + 1, math.isqrt(radius**2 - distance**2) + 1):
            _raise_to_shifted(row, mask, -1, wider)
            width = wider
        _raise_to_shifted(result, row, -2, distance)
    return result


def _raise_to_shifted(
    result: torch.Tensor, values: torch.Tensor, axis: int, distance: int, cost: float = 0
) -> None:
    """result = max(result, values moved by `distance` either way, less `cost`), in place."""
    length = result.shape[axis] - distance
    if length <= 0:
        return
    for to, origin in ((distance, 0), (0, distance)):
        there = result.narrow(axis, to, length)
        torch.maximum(there, values.narrow(axis, origin, length) - cost, out=there)
