"""Blocks of a network whose activations are computed again in the backward pass, not kept.

Between the passes a block keeps its inputs alone. Its second forward pass is made under what held
in the first: the layers differentiable, and the options as they were when it was its turn (the host
writes into that one dict all along the way).

Only the host's own code runs twice. Patches of other packs and attention editors may count their
calls or write into what they get: the second answer would differ from the first, and the gradient
be wrong. They reach a network through its options. Where there are any, a block that gets the
options runs once, and those of its parts that hold no patch are computed again instead.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from comfy.ldm.modules.attention import CrossAttention

from .checkpoint import checkpointed
from .kernels import differentiable_kernels
from .layers import DifferentiableLayers, changed_attributes, differentiable
from .saved import copied, needs_gradient

# What the host's networks call their lists of blocks.
_LISTS = {
    *("input_blocks", "middle_block", "output_blocks", "transformer_blocks"),
    *("double_blocks", "single_blocks", "joint_blocks", "blocks", "layers"),
    *("double_layers", "single_layers", "double_stream_blocks", "single_stream_blocks"),
}


@dataclass(frozen=True, eq=False)
class Block:
    """One that can be computed again.

    Attributes:
        module: its `forward` is a function of its arguments.
        layers: those below it that the gradient pass makes differentiable.
        parts: the attentions, feed-forwards and the like that it consists of.
    """

    module: torch.nn.Module
    layers: list[torch.nn.Module]
    parts: "list[Block]" = field(default_factory=list)


def find_blocks(layers: DifferentiableLayers) -> list[Block]:
    """The residual and transformer blocks of some networks, told by how a network is built."""
    known = set(layers.layers)

    def block(module: torch.nn.Module, parts: list[Block]) -> Block:
        return Block(module, [m for m in module.modules() if m in known], parts)

    modules = dict.fromkeys(chain.from_iterable(map(_blocks, layers.roots)))
    return [
        block(module, [block(part, []) for part in module.children() if any(part.children())])
        for module in modules
    ]


@contextmanager
def computed_again(blocks: list[Block], patched: bool, tensors_change: bool) -> Iterator[None]:
    """These blocks forget their activations; exactly as before on leaving.

    Args:
        blocks: where this is to be.
        patched: whether there is code of others in the options, which must not run twice.
        tensors_change: as for `keep_saved`.
    """
    with ExitStack() as stack:
        for block in blocks:
            if "forward" not in vars(block.module):  # else of another pack: unknown what it does
                forward = _forgetting(block, patched, tensors_change)
                stack.callback(changed_attributes(block.module, {"forward": forward}))
        yield


def _blocks(module: torch.nn.Module, listed: bool = False) -> Iterator[torch.nn.Module]:
    for name, child in module.named_children():
        if listed and _is_block(child):
            yield child
        else:
            yield from _blocks(child, listed or _is_list(name, child))


def _is_list(name: str, module: torch.nn.Module) -> bool:
    several = isinstance(module, torch.nn.ModuleList | torch.nn.Sequential)
    return several and name.rpartition(".")[-1] in _LISTS


def _is_block(module: torch.nn.Module) -> bool:
    """Whether it has parts, is called as a whole, and holds no smaller blocks."""
    several = isinstance(module, torch.nn.ModuleList | torch.nn.Sequential)
    smaller = any(_is_list(name, inner) for name, inner in module.named_modules())
    return any(module.children()) and not several and not smaller


def _forgetting(block: Block, patched: bool, tensors_change: bool) -> Callable[..., Any]:
    original = block.module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        if not needs_gradient(values):
            return original(*args, **kwargs)
        if patched and _runs_patches(block.module, values):
            with computed_again(block.parts, patched, tensors_change):
                return original(*args, **kwargs)

        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        copy = copied if tensors_change else None
        again = _second_pass(original, args, kwargs, block.layers)
        return checkpointed(lambda: original(*args, **kwargs), again, tensors, copy)

    return forward


def _runs_patches(module: torch.nn.Module, values: list[Any]) -> bool:
    """Whether patches may have their say in it: it gets the options, and is no bare attention."""
    return not isinstance(module, CrossAttention) and any(isinstance(v, dict) for v in values)


def _second_pass(
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    layers: list[torch.nn.Module],
) -> Callable[..., Any]:
    """forward(*args, **kwargs) as it is now, its tensors to be given when it is called."""
    values = [*args, *kwargs.values()]
    # Whatever is kept here besides the tensors is small. The host writes into the options.
    others = [None if isinstance(value, torch.Tensor) else _own(value) for value in values]
    places = [place for place, value in enumerate(values) if isinstance(value, torch.Tensor)]
    count, names = len(args), list(kwargs)

    def again(*tensors: torch.Tensor) -> Any:
        given = [*others]
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        with differentiable(layers), differentiable_kernels():
            return forward(*given[:count], **dict(zip(names, given[count:], strict=True)))

    return again


def _own(value: Any) -> Any:
    """The value, or a copy of a dictionary."""
    return dict(value) if isinstance(value, dict) else value
