"""Prompts that are one prediction: what is known of their build before the host processes them."""

from collections.abc import Sequence

import torch
from comfy.sampler_helpers import convert_cond
from comfy.samplers import (
    create_cond_with_same_area_if_none,
    resolve_areas_and_cond_masks_multidim,
)

from ....nmg_sampler import InvalidInput
from .conditions import Condition, Conditioning
from .rows import placed_differently, unlike
from .several import Target


def check_built_alike(branches: Sequence[Target], negative: Target, size: Sequence[int]) -> None:
    """Refuses prompts that one call cannot take, as far as that is known before a run.

    Args:
        branches: the prompts of source and targets.
        size: of the latent, without batch and channels.

    Raises:
        InvalidInput: source and targets are not built alike, or the negative prompt has an area
            that the host would repeat on both.
    """
    (source, *_), *targets = ([_placed(line, size) for line in branch] for branch in branches)
    against = [part for line in negative for part in _placed(line, size)]
    for target in targets:
        for line in target:
            if not len(source) == len(line) == 1:
                raise unlike(f"{len(line)} parts against {len(source)}")
            difference = placed_differently(source[0], line[0])
            if difference is not None:
                raise unlike(difference)
            for part in against:
                _check_leaves_alone(part, line[0])


def _placed(prompt: Conditioning, size: Sequence[int]) -> list[Condition]:
    """The parts of a prompt with areas and masks in cells of the latent, as the host makes them."""
    parts = convert_cond(prompt)
    resolve_areas_and_cond_masks_multidim(parts, torch.Size(size), torch.device("cpu"))
    return parts


def _check_leaves_alone(negative: Condition, positive: Condition) -> None:
    """The host gives every other prompt a part for an area that it has none for."""
    parts = [positive]
    create_cond_with_same_area_if_none(parts, negative)
    if len(parts) > 1:
        raise InvalidInput.of(
            "negative",
            "has an area that its other prompts lack. ComfyUI gives each of them a part for it,"
            " and an editor runs source and target prompt as one part",
            f"an area of {' x '.join(map(str, negative['area'][: len(negative['area']) // 2]))}"
            " latent cells on negative alone",
            "no area, or the same one on NMG Invert's positive, positive and negative",
            "Take the area (or the mask bounds) off negative, or leave the editor out.",
        )
