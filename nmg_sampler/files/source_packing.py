"""A trajectory's source conditioning as JSON beside a table of tensors, and back."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import InvalidInput


def pack_source(source: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`source` as JSON, copies of its tensors added to `tensors`.

    Raises:
        InvalidInput: it holds something that is no number, text or tensor, or itself.
    """
    try:
        return _pack(source, "source", tensors)
    except RecursionError as error:
        raise InvalidInput.of(
            "trajectory source",
            "cannot be stored in a file",
            "a value that holds itself",
            "numbers, text and tensors",
            "Invert with a plain prompt to save the trajectory.",
        ) from error


def unpack_source(value: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    """The source of what `pack_source` gave; `tensor` gets a tensor by its name."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {key: unpack_source(item, tensor) for key, item in content.items()}
    items = [unpack_source(item, tensor) for item in content]
    return {"tuple": tuple, "list": list}[kind](items)


def _pack(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        name = f"source.{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, f"{place}[{i}]", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {
            "dict": {key: _pack(item, f"{place}.{key}", tensors) for key, item in value.items()}
        }
    raise InvalidInput.of(
        f"trajectory {place}",
        "cannot be stored in a file",
        type(value).__name__,
        "numbers, text and tensors (a ControlNet or a hook is none)",
        "Invert with a plain prompt to save the trajectory.",
    )
