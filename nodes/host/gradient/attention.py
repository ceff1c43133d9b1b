"""Attention that a gradient passes through, whatever kernel computes it."""

from collections.abc import Callable, Iterable
from typing import Any

import comfy.ldm.modules.attention
import torch

from ....nmg_sampler import NotDifferentiable
from .saved import needs_gradient

# Two attention kernels differ by less than this part of their result (sage: 8 bit integers).
_KERNEL_DIFFERENCE = 0.1
_STEPS = "RoundBackward", "FloorBackward", "CeilBackward", "TruncBackward", "SignBackward"


def attention_with_backward(other: Callable[..., torch.Tensor] | None) -> Callable[..., Any]:
    """An `optimized_attention_override`: PyTorch's attention, whatever backend the user chose.

    Sage and flash kernels have no usable backward; sub-quadratic attention has a slow one.

    Args:
        other: the override that another pack had put in. If it changes what attention computes it
            is followed; if it is only another kernel without a backward it is left out.
    """
    own = comfy.ldm.modules.attention.attention_pytorch

    def attention(_chosen: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        theirs = None if other is None else other(own, *args, **kwargs)
        if theirs is not None and theirs.requires_grad and not _rounds(theirs, args[:3]):
            return theirs
        ours = own(*args, **kwargs)
        if theirs is not None and (theirs - ours).norm() > _KERNEL_DIFFERENCE * ours.norm():
            raise NotDifferentiable.through_patch(
                "an attention override without a gradient, from another pack"
            )
        return ours

    return attention


def _rounds(result: torch.Tensor, inputs: Iterable[torch.Tensor]) -> bool:
    """Whether there is a step function on the way, whose slope PyTorch takes for 0."""
    seen = {tensor.grad_fn for tensor in inputs} | {None}
    waiting = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            if node.name().startswith(_STEPS):
                return True
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return False


def watch_attention(module: Any) -> list[Any]:
    """Refuses a patch between the projections of an attention that cuts its graph."""
    asked: list[bool] = []

    def note(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
        asked[:] = [needs_gradient((args, kwargs))]

    def refuse_cut(_: torch.nn.Module, args: Any) -> None:
        # Where another pack replaces the attention, its inputs were not seen: they need a gradient.
        if asked != [False] and not needs_gradient(args):
            raise NotDifferentiable.through_patch("an attention that is cut off from its input")

    return [
        module.register_forward_pre_hook(note, with_kwargs=True),
        module.to_out.register_forward_pre_hook(refuse_cut),
    ]
