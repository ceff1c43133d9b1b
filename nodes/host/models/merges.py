"""What the host's merging nodes make of a weight, with LoRAs and other patches left out.

A merge is a patch on every weight, as a LoRA is: `(strength, brought, own, offset, function)`, and
the host makes `own * weight + strength * brought` of it. Its merging nodes bring the weight of
another model, as a list that begins with that weight and goes on with the patches of that model.
Nothing else does.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_management
import comfy.utils
import torch

Patch = tuple[Any, ...]


def merges_of(patches: Iterable[Patch]) -> list[Patch]:
    """The patches that are merges, and inside them the merges of the model that they bring."""
    found = []
    for strength, brought, own, offset, function in patches:
        if isinstance(brought, list):
            brought = [brought[0], *merges_of(brought[1:])]
        elif own == 1.0 or strength == 0.0:
            continue  # adds to the weight, as LoRAs do, or scales it and brings nothing
        if strength != 0.0 or own != 1.0:
            found.append((strength, brought, own, offset, function))
    return found


def recipe(merges: Iterable[Patch]) -> tuple[Any, ...]:
    """How much of which model a weight is made of, without the weights."""
    return tuple(
        (strength, own, recipe(brought[1:]) if isinstance(brought, list) else ())
        for strength, brought, own, *_ in merges
    )


def moves(weight: torch.Tensor, merges: Sequence[Patch]) -> bool:
    """Whether the merges make anything else of the weight."""
    start, rest = _simplified(weight, merges)
    return start is not weight or bool(rest)


def merged(
    weight: torch.Tensor, merges: Sequence[Patch], key: str, device: torch.device
) -> torch.Tensor:
    """The weight as the host merges it when it loads or saves the model on the device.

    All of one model is the weight of that model, to the bit; so is a merge of equal weights.
    """
    start, rest = _simplified(weight, merges)
    if start is weight and not rest:
        return weight
    value = start
    if rest:
        dtype = comfy.model_management.lora_compute_dtype(device)
        value = comfy.model_management.cast_to_device(start, device, dtype, copy=True)
        value = comfy.lora.calculate_weight(rest, value, key)
    if value.dtype == weight.dtype:
        return value
    seed = comfy.utils.string_to_seed(key)
    return comfy.float.stochastic_rounding(value, weight.dtype, seed=seed)


def _simplified(
    weight: torch.Tensor, merges: Sequence[Patch]
) -> tuple[torch.Tensor, Sequence[Patch]]:
    """A weight and merges with the same outcome, in which none takes all of one model."""
    rest: list[Patch] = []
    for patch in merges:
        strength, brought, own, offset, function = patch
        if isinstance(brought, list) and offset is None:
            (other, convert), inner = brought[0], brought[1:]
            other, inner = _simplified(other, inner)
            whole = abs(strength + own - 1.0) < 1e-9 and other.shape == weight.shape
            if whole and not rest and not inner and _equal(weight, other):
                continue
            if whole and own == 0.0:
                weight, rest = other, [*inner]
                continue
            patch = (strength, [(other, convert), *inner], own, offset, function)
        rest.append(patch)
    return weight, rest


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    return torch.equal(*(value.detach().to("cpu", torch.float32) for value in (one, other)))
