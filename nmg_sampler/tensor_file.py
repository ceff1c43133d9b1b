"""Files of tensors: safetensors with a versioned JSON header. Never pickle, never half-written."""

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import InvalidInput

T = TypeVar("T")
# What a file holds under a name: a copy, since safetensors maps the file, whose later change or cut
# would reach into the tensor.
Tensors = Callable[[str], torch.Tensor]


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
    kind: FileKind, path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    """Writes `path`, complete or not at all.

    Raises:
        OSError: the file system refuses.
    """
    metadata = {
        "format": f"nmg-{kind.name}",
        "version": str(kind.version),
        "header": json.dumps(header),
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
        InvalidInput: the file is missing, truncated, of another kind or version, or `build` cannot
            make anything of it.
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
        return build(json.loads(metadata["header"]), lambda name: file.get_tensor(name).clone())
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


def _broken(kind: FileKind, name: str, problem: str) -> InvalidInput:
    return InvalidInput.of(
        f"{kind.name} file {name}",
        "cannot be used",
        f"a file that {problem}",
        f"a complete file written by Save NMG {kind.name.capitalize()}",
        kind.again,
    )
