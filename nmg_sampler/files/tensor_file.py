"""Files of tensors: safetensors with a versioned JSON header. Never pickle, never half-written."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InvalidInput

T = TypeVar("T")
# What a file holds under a name: a copy, since safetensors maps the file, whose later change or cut
# would reach into the tensor.
Tensors = Callable[[str], torch.Tensor]
# Hears, before anything is written, how many bytes will be and how many are free.
OnSize = Callable[[int, int], None]

_ENTRY_BYTES = 200  # of the format's own table, at most, for one tensor


@dataclass(frozen=True)
class FileKind:
    """What tells files of this package apart.

    Attributes:
        name: of what is in it: "trajectory". The file says "nmg-trajectory" of itself.
        version: of the header and tensors.
        suffix: of the file name.
        again: what to do if a file is broken.
    """

    name: str
    version: int
    suffix: str
    again: str


def write_file(
    kind: FileKind,
    path: Path,
    header: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    on_size: OnSize | None = None,
) -> None:
    """Writes `path`, complete or not at all.

    Raises:
        InvalidInput: a tensor is not finite, or the disk has too little room.
        OSError: the file system refuses.
    """
    text = json.dumps(header)
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise InvalidInput.of(
                f"{kind.name} {name}", "is not finite", "NaN or infinity", "numbers", kind.again
            )
    _check_room(kind, path, len(text) + _size_of(tensors), on_size)
    metadata = {
        "format": f"nmg-{kind.name}",
        "version": str(kind.version),
        "header": text,
        "digest": _digest(text, tensors.items()),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_file(kind: FileKind, path: Path, build: Callable[[Any, Tensors], T]) -> T:
    """What `build` makes of header and tensors of a file written by `write_file`.

    Raises:
        InvalidInput: the file is missing, truncated, changed, of another kind or version, or
            `build` cannot make anything of it.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _read(kind, file, path.name, build)
    except (OSError, SafetensorError) as error:
        raise _broken(kind, path.name, f"cannot be read ({error})") from error


def _read(kind: FileKind, file: Any, name: str, build: Callable[[Any, Tensors], T]) -> T:
    metadata = file.metadata() or {}
    if metadata.get("format") != f"nmg-{kind.name}":
        raise _broken(kind, name, f"is no NMG {kind.name}")
    if metadata.get("version") != str(kind.version):
        raise InvalidInput.of(
            f"{kind.name} file {name}",
            "has another version",
            metadata.get("version"),
            f"version {kind.version}",
            "Save it again with the pack that made it, or update the pack.",
        )
    try:
        built = build(json.loads(metadata["header"]), lambda name: _finite(file, name))
        contents = ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        if _digest(metadata["header"], contents) != metadata.get("digest"):
            raise ValueError("it was changed after it was written")
        return built
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        problem = f"does not fit together ({type(error).__name__}: {error})"
        raise _broken(kind, name, problem) from error


def _finite(file: Any, name: str) -> torch.Tensor:
    tensor = file.get_tensor(name)
    if not _is_finite(tensor):
        raise ValueError(f"{name} is not finite")
    return tensor.clone()


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _digest(header: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of all that a file holds, whatever the order of its tensors."""
    total = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _size_of(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes + _ENTRY_BYTES for tensor in tensors.values())


def _check_room(kind: FileKind, path: Path, size: int, on_size: OnSize | None) -> None:
    """Tells the size; raises InvalidInput if the disk has not as much room."""
    free = shutil.disk_usage(path.parent).free
    if on_size is not None:
        on_size(size, free)
    if size > free:
        raise InvalidInput.of(
            f"{kind.name} file {path.name}",
            "does not fit on the disk",
            f"{bytes_in_words(free)} free",
            f"{bytes_in_words(size)} at least",
            "Make room, or let ComfyUI write to another disk (--output-directory).",
        )


def bytes_in_words(size: float) -> str:
    """A number of bytes as a person reads it: "1.7 MB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _broken(kind: FileKind, name: str, problem: str) -> InvalidInput:
    return InvalidInput.of(
        f"{kind.name} file {name}",
        "cannot be used",
        f"a file that {problem}",
        f"a complete file written by Save NMG {kind.name.capitalize()}",
        kind.again,
    )
