"""Input gradients through the host's layers: no weight is saved, copied or given a gradient.

The host runs nodes in inference mode, loads weights there, casts them on the fly, streams them
through buffers that the next layer overwrites, or keeps them quantised. Ordinary autograd would
refuse the first and use wrong numbers with the others. Here a layer asks the host for its weight in
the forward pass and asks again in the backward pass, so any of these ways gives the same gradient.

The layers are the host's own; for the length of one forward pass each instance gets its weight
operation replaced, through the door that the host itself uses for cast weights.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import comfy.ldm.modules.attention
import comfy.ops
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ....nmg_sampler import NotDifferentiable
from .attention import watch_attention
from .saved import needs_gradient

_ABSENT = object()
_CONV_INPUT_GRADIENT = {
    torch.nn.Conv1d: torch.nn.grad.conv1d_input,
    torch.nn.Conv2d: torch.nn.grad.conv2d_input,
    torch.nn.Conv3d: torch.nn.grad.conv3d_input,
}


class DifferentiableLayers:
    """The layers below some networks, found once; `prepared` makes them differentiable for a pass.

    Args:
        roots: networks; one that comes twice, as a ControlNet on both prompts does, counts once.
    """

    def __init__(self, *roots: torch.nn.Module) -> None:
        self.roots = list(dict.fromkeys(roots))
        modules = dict.fromkeys(module for root in self.roots for module in root.modules())
        attention = comfy.ldm.modules.attention.CrossAttention
        self.layers = [m for m in modules if _is_layer(m) or list(m.parameters(recurse=False))]
        self.attentions = [m for m in modules if isinstance(m, attention)]

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Every layer differentiable in its input; exactly as before on leaving.

        Raises:
            NotDifferentiable: a patch cuts a network, or one of its attentions, off from its input.
        """
        with ExitStack() as stack:
            for root in self.roots:
                watch = root.register_forward_hook(_refuse_cut, with_kwargs=True)
                stack.callback(watch.remove)
            for module in self.attentions:
                for watch in watch_attention(module):
                    stack.callback(watch.remove)
            stack.enter_context(differentiable(self.layers))
            yield


@contextmanager
def differentiable(layers: Iterable[torch.nn.Module]) -> Iterator[None]:
    """These layers, and no other, differentiable in their input; as before on leaving."""
    with ExitStack() as stack:
        for module in layers:
            stack.callback(changed_attributes(module, _changes(module)))
        yield


def changed_attributes(module: torch.nn.Module, changes: dict[str, Any]) -> Callable[[], None]:
    """Puts these on the instance, and tells how to take them off again."""
    attributes = module.__dict__
    before = {name: attributes.get(name, _ABSENT) for name in changes}
    attributes.update(changes)

    def undo() -> None:
        for name, value in before.items():
            if value is _ABSENT:
                del attributes[name]
            else:
                attributes[name] = value

    return undo


def _refuse_cut(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    if needs_gradient((args, kwargs)) and not needs_gradient(output):
        raise NotDifferentiable.through_patch(
            f"a {type(module).__name__} whose answer is cut off from its input"
        )


def _is_layer(module: torch.nn.Module) -> bool:
    """Whether it is one of the layers that the host gives weights to."""
    return isinstance(module, comfy.ops.CastWeightBiasOp)


def _changes(module: torch.nn.Module) -> dict[str, Any]:
    if not _is_layer(module):
        # A norm's weight or a table of its own: small, and autograd may want to keep it.
        return {k: v.detach().clone() for k, v in module.named_parameters(recurse=False)}
    operation = _operation(module)
    if operation is None:
        return {}
    return {
        "forward_comfy_cast_weights": operation,
        "comfy_cast_weights": True,
        # Quantised layers: take the weight in the input's precision.
        "comfy_force_cast_weights": True,
    }


def _operation(module: torch.nn.Module) -> Callable[..., torch.Tensor] | None:
    """The replacement of the module's weight operation, None where none is needed."""
    if isinstance(module, torch.nn.Embedding):
        return None  # its input is whole numbers: no gradient passes
    replaced = getattr(module, "forward_comfy_cast_weights", None)
    if replaced is None:
        return None  # the host calls something else: ordinary autograd decides
    if replaced.__module__ != comfy.ops.__name__ or "_conv_forward" in vars(module):
        return partial(_refuse, module)  # of another pack: what it does to weights is unknown
    weights = _resident if _is_resident(module) else _cast
    if isinstance(module, torch.nn.GroupNorm):
        return partial(_with_cloned_weights, module, weights, _group_norm)
    if isinstance(module, torch.nn.LayerNorm):
        return partial(_with_cloned_weights, module, weights, _layer_norm)
    if isinstance(module, torch.nn.RMSNorm):
        return partial(_with_cloned_weights, module, weights, _rms_norm)
    for kind, input_gradient in _CONV_INPUT_GRADIENT.items():
        if isinstance(module, kind):
            return partial(_convolve, module, weights, input_gradient)
    if hasattr(module, "in_features"):
        return partial(_linear, module, weights)
    return partial(_refuse, module)


def _is_resident(module: Any) -> bool:
    """Whether the host itself would use the module's weights as they are."""
    return not (module.comfy_cast_weights or module.weight_function or module.bias_function)


_Weights = Callable[
    [Any, torch.Tensor], AbstractContextManager[tuple[torch.Tensor, torch.Tensor | None]]
]


def _resident(
    module: Any, _: torch.Tensor
) -> AbstractContextManager[tuple[torch.Tensor, torch.Tensor | None]]:
    """The module's own (weight, bias): asking the host costs more than a small layer does."""
    return nullcontext((module.weight, module.bias))


@contextmanager
def _cast(
    module: torch.nn.Module, like: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """The module's (weight, bias) as the host gives them for an input like `like`."""
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


class _InputGradient(torch.autograd.Function):
    """A layer that is linear in its input: apply(x, module, weights, forward, pullback)."""

    @staticmethod
    def forward(ctx, x, module, weights, forward, pullback):  # noqa: ANN001 (autograd's interface)
        ctx.module, ctx.weights, ctx.pullback, ctx.shape = module, weights, pullback, x.shape
        with weights(module, x) as (weight, bias):
            return forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: ANN001
        with ctx.weights(ctx.module, grad) as (weight, _):
            return ctx.pullback(ctx.shape, weight, grad), None, None, None, None


def _linear(
    module: torch.nn.Module, weights: _Weights, x: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    return _InputGradient.apply(x, module, weights, _flat_linear, _linear_pullback)


def _flat_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """functional.linear, whose result may be written into: it is a view of nothing."""
    flat = functional.linear(x.flatten(0, -2), weight, bias)
    return torch.ops.aten._unsafe_view(flat, (*x.shape[:-1], flat.shape[-1]))


def _linear_pullback(_: Any, weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return grad @ weight


def _convolve(
    module: Any,
    weights: _Weights,
    input_gradient: Callable[..., torch.Tensor],
    x: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    if module.padding_mode != "zeros" or isinstance(module.padding, str) or any(options.values()):
        _refuse(module)

    def pullback(shape: torch.Size, weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return input_gradient(
            shape, weight, grad, module.stride, module.padding, module.dilation, module.groups
        )

    return _InputGradient.apply(x, module, weights, module._conv_forward, pullback)


def _with_cloned_weights(
    module: torch.nn.Module,
    weights: _Weights,
    norm: Callable[..., torch.Tensor],
    x: torch.Tensor,
) -> torch.Tensor:
    """A norm needs its weight in the backward pass: it is small, so it is cloned."""
    if module.weight is None:
        return norm(module, x, None, None)
    with weights(module, x) as (weight, bias):
        own = [None if tensor is None else tensor.clone() for tensor in (weight, bias)]
    return norm(module, x, *own)


def _group_norm(module: Any, x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    return functional.group_norm(x, module.num_groups, weight, bias, module.eps)


def _layer_norm(module: Any, x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    return functional.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _rms_norm(module: Any, x: torch.Tensor, weight: Any, _: Any) -> torch.Tensor:
    return functional.rms_norm(x, module.normalized_shape, weight, module.eps)


def _refuse(module: torch.nn.Module, *_: Any, **__: Any) -> torch.Tensor:
    raise NotDifferentiable(
        f"gradient 'full' does not know a layer of this model. Got {type(module).__qualname__};"
        " expected Linear, Conv, GroupNorm, LayerNorm or RMSNorm. Use gradient 'direct'."
    )
