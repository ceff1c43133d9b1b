"""Trajectories as files: their header and tensors."""

from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidInput
from ..trajectory.levels import Family, NoiseLevel
from ..trajectory.schedule import Schedule
from ..trajectory.trajectory import Kind, ModelIdentity, Trajectory
from .source_packing import pack_source, unpack_source
from .tensor_file import FileKind, OnSize, Tensors, read_file, write_file

TRAJECTORY = FileKind(
    "trajectory", 1, ".nmg.safetensors", "Invert the picture again and save it anew."
)
SUFFIX = TRAJECTORY.suffix
# By this extra, files from before 0.2.0 say that their states are drawn one by one.
_DRAWN_EXTRA = "edit_friendly_noise"

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def save_trajectory(
    trajectory: Trajectory,
    path: Path,
    dtype: torch.dtype = torch.float32,
    on_size: OnSize | None = None,
) -> None:
    """Writes `path`, complete or not at all.

    Args:
        trajectory: written with its source conditioning, noise mask and extras.
        path: overwritten if it exists; its folder must exist.
        dtype: of the states in the file, float32 (sampling is then identical bit for bit) or
            float16 (half the size).
        on_size: called before anything is written with the bytes of the file, counted within one
            per cent or a few KB, and with those that the disk has free.

    Raises:
        InvalidInput: the source conditioning holds something that is no number, text or tensor, or
            the disk has too little room.
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
        "extras": sorted(trajectory.extras),
    }
    if trajectory.kind is not Kind.PATH:
        header["kind"] = trajectory.kind.value
    for name, extra in trajectory.extras.items():
        tensors[f"extra.{name}"] = extra.contiguous().cpu()
    write_file(TRAJECTORY, path, header, tensors, on_size)


def load_trajectory(path: Path) -> Trajectory:
    """The trajectory of a file written by `save_trajectory`.

    Raises:
        InvalidInput: the file is missing, truncated, changed, no trajectory, of another version,
            or its header and tensors do not agree.
    """
    return read_file(TRAJECTORY, path, _build)


def _build(header: Any, tensor: Tensors) -> Trajectory:
    states = tensor("states")
    if list(states.shape) != list(header["shape"]):
        raise ValueError(f"states of shape {list(states.shape)}, header says {header['shape']}")
    extras = header.get("extras", [])
    drawn = Kind.DRAWN if _DRAWN_EXTRA in extras else Kind.PATH
    return Trajectory(
        states=states.to(_DTYPES[header["dtype"]]),
        schedule=_schedule_from_json(header["schedule"]),
        model=ModelIdentity(**{**header["model"], "family": Family(header["model"]["family"])}),
        source=unpack_source(header["source"], tensor),
        noise_mask=tensor("noise_mask") if header["noise_mask"] else None,
        extras={name: tensor(f"extra.{name}") for name in extras},
        kind=Kind(header.get("kind", drawn)),
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
