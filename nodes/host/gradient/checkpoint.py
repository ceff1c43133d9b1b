"""Activation checkpointing: the graph of a call without its activations.

As `torch.utils.checkpoint` does it without reentrance, with two things that it lacks: what the
second pass computes may be copied, for networks that write into their own activations, and
otherwise a write into one of them is found out, as PyTorch finds it out where nothing is
recomputed.
"""

from collections.abc import Callable
from typing import Any

import torch

from ....nmg_sampler import NotDifferentiable


def checkpointed(
    run: Callable[..., Any],
    again: Callable[..., Any],
    tensors: list[torch.Tensor],
    copy: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Any:
    """run(), with a graph that makes its activations by again(*tensors) when it needs them.

    Args:
        run: of the tensors, which it knows.
        again: computes the same. It is called once, in the backward pass, and need not end.
        tensors: kept by the graph around, as its hooks have it.
        copy: for what is kept from the second pass; None keeps it as it is.

    Raises:
        NotDifferentiable: in the backward pass, if the second pass is not like the first.
        RuntimeError: there as well, PyTorch's own, if a tensor was written into.
    """
    call = _Call(again, tensors, copy)
    with torch.autograd.graph.saved_tensors_hooks(call.forget, call.recall):
        return run()


class _Call:
    """One call of a block: what its graph holds."""

    def __init__(
        self,
        again: Callable[..., Any],
        tensors: list[torch.Tensor],
        copy: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self.again, self.copy = again, copy
        # A node of the graph around: its hooks apply, and PyTorch looks after the versions.
        self.arguments = _Arguments.apply(torch.empty(0, requires_grad=True), *tensors)
        self.forgotten: list[tuple[torch.Size, torch.dtype]] = []
        self.kept: list[tuple[torch.Tensor, int] | None] | None = None

    def forget(self, tensor: torch.Tensor) -> int:
        self.forgotten.append((tensor.shape, tensor.dtype))
        return len(self.forgotten) - 1

    def recall(self, place: int) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.computed()
        kept = self.kept[place]
        if kept is None:
            raise RuntimeError("the graph of a checkpointed block was walked a second time")
        tensor, version = kept
        if tensor._version != version:
            raise NotDifferentiable.through_patch("a block with an inplace operation")
        self.kept[place] = None  # no longer than the backward pass needs it
        return tensor

    def computed(self) -> list[tuple[torch.Tensor, int] | None]:
        """What the first pass forgot, computed anew."""
        kept: list[tuple[torch.Tensor, int] | None] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if self.forgotten[len(kept)] != (tensor.shape, tensor.dtype):
                raise _unlike()
            own = tensor.detach() if self.copy is None else self.copy(tensor.detach())
            kept.append((own, own._version))
            if len(kept) == len(self.forgotten):
                raise _Complete
            return own

        try:
            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            with hooks, torch.enable_grad():
                self.again(*self.arguments.grad_fn.saved_tensors)
        except _Complete:
            return kept
        raise _unlike()


class _Complete(Exception):  # noqa: N818 (no error: the rest of the pass is not needed)
    """Everything that was forgotten has been computed."""


class _Arguments(torch.autograd.Function):
    """A node that keeps tensors for a call, and passes no gradient."""

    @staticmethod
    def forward(ctx, anchor, *tensors):  # noqa: ANN001 (autograd's interface)
        ctx.save_for_backward(*tensors)
        return anchor.new_empty(0)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        raise AssertionError("nothing depends on it")


def _unlike() -> NotDifferentiable:
    return NotDifferentiable.through_patch("a block that computes something else when asked again")
