"""Tensors in a graph: what a backward pass keeps, and whether there is one at all."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def keep_saved(tensors_change: bool) -> AbstractContextManager[Any]:
    """Lets a forward pass write into activations that its backward pass needs.

    The host adds ControlNets in place, and so do patches of other packs. Costs a copy of every
    saved activation, so only where something does.
    """
    if not tensors_change:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(copied, lambda kept: kept)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the same layout: kernels sum in another order for another one."""
    if 0 in tensor.stride():
        return tensor.clone()
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)


def needs_gradient(value: Any) -> bool:
    """Whether a tensor in there requires a gradient."""
    if isinstance(value, torch.Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(map(needs_gradient, value))
