"""Trajectories as files: safetensors with a versioned JSON header. Never pickle."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import InvalidInput
from .levels import Family, NoiseLevel
from .schedule import Schedule
from .trajectory import ModelIdentity, Trajectory

FORMAT = "nmg-trajectory"
VERSION = 1
SUFFIX = ".nmg.safetensors"

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
        "source": _pack_source(trajectory.source, tensors),
        "noise_mask": trajectory.noise_mask is not None,
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "header": json.dumps(header)}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_trajectory(path: Path) -> Trajectory:
    """The trajectory of a file written by `save_trajectory`.

    Raises:
        InvalidInput: the file is missing, truncated, no trajectory, of another version, or its
            header and tensors do not agree.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _read(file, path.name)
    except (OSError, SafetensorError) as error:
        raise _broken(path.name, f"cannot be read ({error})") from error


def _read(file: Any, name: str) -> Trajectory:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise _broken(name, "is no NMG trajectory")
    if metadata.get("version") != str(VERSION):
        raise InvalidInput.of(
            f"trajectory file {name}",
            "has another version",
            metadata.get("version"),
            f"version {VERSION}",
            "Save it again with the pack that made it, or update the pack.",
        )
    try:
        return _build(file, json.loads(metadata["header"]))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise _broken(name, f"does not fit together ({type(error).__name__}: {error})") from error


def _build(file: Any, header: Any) -> Trajectory:
    shape = file.get_slice("states").get_shape()
    if list(shape) != list(header["shape"]):
        raise ValueError(f"states of shape {shape}, header says {header['shape']}")
    dtype = _DTYPES[header["dtype"]]
    return Trajectory(
        states=_own(file, "states").to(dtype),
        schedule=_schedule_from_json(header["schedule"]),
        model=ModelIdentity(**{**header["model"], "family": Family(header["model"]["family"])}),
        source=_unpack(header["source"], file),
        noise_mask=_own(file, "noise_mask") if header["noise_mask"] else None,
    )


def _own(file: Any, name: str) -> torch.Tensor:
    """A copy: safetensors maps the file, whose later change or cut would reach into the tensor."""
    return file.get_tensor(name).clone()


def _broken(name: str, problem: str) -> InvalidInput:
    return InvalidInput.of(
        f"trajectory file {name}",
        "cannot be used",
        f"a file that {problem}",
        "a complete file written by Save NMG Trajectory",
        "Invert the picture again and save it anew.",
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


def _pack_source(source: Any, tensors: dict[str, torch.Tensor]) -> Any:
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


def _pack(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON, its tensors moved into `tensors`."""
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


def _unpack(value: Any, file: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return _own(file, content)
    if kind == "dict":
        return {key: _unpack(item, file) for key, item in content.items()}
    items = [_unpack(item, file) for item in content]
    return {"tuple": tuple, "list": list}[kind](items)
