"""Exact preservation in pixels: an edit inside a soft mask, the original itself everywhere else.

Pictures are (B, H, W, C) 0..1, masks (N, H, W) 0..1 with 1 where the picture is to be the edit.
"""

from enum import Enum

import torch

from ..contract.branches import Branches
from ..errors import InvalidInput
from .masks import feather_mask, fit_mask, grow_mask
from .pictures import check_picture, in_colour


class Combine(str, Enum):
    """What two masks are together."""

    INTERSECTION = "intersection"  # white where both are
    UNION = "union"  # white where either is


def soft_mask(
    mask: torch.Tensor,
    size: tuple[int, int],
    branches: Branches,
    *,
    words: torch.Tensor | None = None,
    combine: Combine = Combine.INTERSECTION,
    grow: int = 0,
    feather: int = 0,
) -> torch.Tensor:
    """A mask made ready for `composite`: fitted, combined with another one, grown, feathered.

    Where `grow + feather` is 0 or more, it is exactly 0 at more than that many pixels from where
    the combined mask is above 0.

    Args:
        mask, words: (N, h, w) of any size each: one for all edits, one per picture, or one per
            edit, as rows of the target branches lie; words None is none.
        size: (height, width) of the pictures.
        branches: how many pictures and targets there are.
        combine: what mask and words are together.
        grow: pixels, negative to shrink.
        feather: pixels, 0 or more.

    Returns:
        (1 or targets * B, *size) float32.

    Raises:
        InvalidInput: a mask cannot be used, or masks and pictures do not fit in number.
    """
    combined = _for_edits("mask", fit_mask("mask", mask, size), branches)
    if words is not None:
        other = _for_edits("words", fit_mask("words", words, size), branches).to(combined.device)
        least_or_most = torch.minimum if combine is Combine.INTERSECTION else torch.maximum
        combined = least_or_most(combined, other)
    return feather_mask(grow_mask(combined, grow), feather)


def branches_of(original: torch.Tensor, edited: torch.Tensor) -> Branches:
    """How many edits there are of each original picture.

    Raises:
        InvalidInput: the two are no pictures, are not of one size, or do not fit in number.
    """
    for name, image in (("original", original), ("edited", edited)):
        check_picture(name, image)
    if original.shape[1:3] != edited.shape[1:3]:
        raise InvalidInput.of(
            "edited",
            "has another size than original",
            _size_of(edited),
            _size_of(original),
            "VAE Encode cuts off what is no multiple of 8: put Pad To Grid before it, and Crop"
            " Padding after VAE Decode.",
        )
    pictures, edits = len(original), len(edited)
    if not pictures or edits % pictures or not edits:
        raise InvalidInput.of(
            "edited",
            "does not fit the originals",
            f"{edits} pictures for {pictures}",
            f"{pictures} or a multiple of it",
            "Connect the pictures that were inverted as original.",
        )
    return Branches(pictures, edits // pictures)


def composite(original: torch.Tensor, edited: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The edit where the mask is 1, the original bit for bit where it is 0, their mixture between.

    Args:
        original: (B, H, W, 1 to 4); an alpha channel is kept as it is, everywhere.
        edited: (targets * B, H, W, 1 to 4), target after target; an alpha channel is not used.
        mask: (1 or targets * B, H, W) 0..1.

    Returns:
        (targets * B, H, W, channels of the original), its dtype and device; a new tensor. Of a grey
        original its grey is red, green and blue: the edit keeps its colours.

    Raises:
        InvalidInput: as `branches_of`.
    """
    before = branches_of(original, edited).repeat(in_colour(original))
    colours, alpha = before[..., :3], before[..., 3:]
    share = mask[..., None].to(before)
    mixed = torch.lerp(colours, in_colour(edited)[..., :3].to(before), share)
    # Not left to the mixture: 0 times what is no number is no number.
    return torch.cat([torch.where(share > 0, mixed, colours), alpha], -1)


def _for_edits(name: str, mask: torch.Tensor, branches: Branches) -> torch.Tensor:
    """(1 or targets * B, H, W) of one mask, one per picture, or one per edit."""
    if len(mask) in (1, branches.rows):
        return mask
    if len(mask) == branches.pictures:
        return branches.repeat(mask)
    counts = sorted({1, branches.pictures, branches.rows})
    raise InvalidInput.of(
        name,
        "does not fit the pictures",
        f"{len(mask)} masks for {branches.rows} edits of {branches.pictures} pictures",
        " or ".join(map(str, counts)),
        "Give one mask for all, one per picture, or one per edit.",
    )


def _size_of(image: torch.Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
