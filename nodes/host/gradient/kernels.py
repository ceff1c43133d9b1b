"""The host's fused kernels in a form that can be differentiated.

Diffusion transformers turn queries and keys by kernels of `comfy_kitchen` that have no backward
pass. Each has a plain PyTorch twin in the same package: where a gradient is to pass, calls of the
kernel go to the twin, in this thread and for the length of a pass alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.overrides import TorchFunctionMode

try:
    import comfy_kitchen.backends.eager as _twins
except ImportError:  # older hosts turn queries and keys in plain PyTorch
    _twins = None

_NAMESPACE = "comfy_kitchen"


def differentiable_kernels() -> AbstractContextManager[Any]:
    """Kernels that pass gradients on; every call of a PyTorch function costs a little more."""
    return nullcontext() if _twins is None else _Twins()


class _Twins(TorchFunctionMode):
    """Plain PyTorch in the place of each kernel that has a twin."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        space, _, kernel = getattr(func, "_qualified_op_name", "").partition("::")
        if space == _NAMESPACE and any(getattr(arg, "requires_grad", False) for arg in args):
            func = getattr(_twins, kernel, func)
        return func(*args, **(kwargs or {}))
