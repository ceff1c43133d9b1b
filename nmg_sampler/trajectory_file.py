"""Trajectories as files: safetensors with a versioned JSON header. Never pickle."""

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
from .levels import Family, NoiseLevel
from .packing import pack_source, unpack_source
from .schedule import Schedule
from .trajectory import ModelIdentity, Trajectory

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


TRAJECTORY = FileKind(
    "trajectory", 1, ".nmg.safetensors", "Invert the picture again and save it anew."
)
SUFFIX = TRAJECTORY.suffix

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def save_trajectory(trajectory: Trajectory, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes `path`, complete or not at all.

    Args:
        trajectory: written with its source conditioning and noise mask.
        path: overwritten if it exists; its folder must exist.
        dtype: of the states in the file, float32 (sampling is then identical bit for bit) or
            float16 (half the size).

    Raises:
        InvalidInput: the source conditioning holds something that is no number, text or tensor.
        OSError: the file system refuses.
    """
    tensors = {"states": trajectory.states.to(dtype).contiguous()}
    if not bool(torch.isfinite(tensors["states"]).all()):
        raise InvalidInput.of(
            "trajectory states",
            "do not fit the precision of the file",
            f"a largest value of {float(trajectory.states.abs().max()):.3g}",
            f"at most {torch.finfo(dtype).max:.3g}",
            "Save it in float32.",
        )
    if trajectory.noise_mask is not None:
        tensors["noise_mask"] = trajectory.noise_mask.contiguous().cpu()
    header = {
        "schedule": _schedule_to_json(trajectory.schedule),
        "model": {**vars(trajectory.model), "family": trajectory.model.family.value},
        "shape": list(trajectory.states.shape),
        "dtype": str(trajectory.states.dtype).removeprefix("torch."),
        "source": pack_source(trajectory.source, tensors),
        "noise_mask": trajectory.noise_mask is not None,
    }
    write_file(TRAJECTORY, path, header, tensors)


def load_trajectory(path: Path) -> Trajectory:
    """The trajectory of a file written by `save_trajectory`.

    Raises:
        InvalidInput: the file is missing, truncated, no trajectory, of another version, or its
            header and tensors do not agree.
    """
    return read_file(TRAJECTORY, path, _build)


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


def _build(header: Any, tensor: Tensors) -> Trajectory:
    states = tensor("states")
    if list(states.shape) != list(header["shape"]):
        raise ValueError(f"states of shape {list(states.shape)}, header says {header['shape']}")
    return Trajectory(
        states=states.to(_DTYPES[header["dtype"]]),
        schedule=_schedule_from_json(header["schedule"]),
        model=ModelIdentity(**{**header["model"], "family": Family(header["model"]["family"])}),
        source=unpack_source(header["source"], tensor),
        noise_mask=tensor("noise_mask") if header["noise_mask"] else None,
    )


def _schedule_to_json(schedule: Schedule) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "levels": [[level.alpha, level.sigma] for level in schedule.levels],
        "query_levels": [[level.alpha, level.sigma] for level in schedule.query_levels],
        "start": schedule.start,
    }


def _schedule_from_json(data: dict[str, Any]) -> Schedule:
    levels = tuple(NoiseLevel(*pair) for pair in data["levels"])
    query_levels = tuple(NoiseLevel(*pair) for pair in data["query_levels"])
    return Schedule(str(data["name"]), levels, query_levels, int(data["start"]))
