"""Edit directions as files."""

from pathlib import Path
from typing import Any

from ..editors.direction import EditDirection
from .tensor_file import FileKind, Tensors, read_file, write_file

DIRECTION = FileKind(
    "direction",
    1,
    ".nmg-direction.safetensors",
    "Make the direction again with NMG Edit Direction and save it anew.",
)


def save_direction(direction: EditDirection, path: Path) -> None:
    """Writes `path`, complete or not at all; overwrites it if it exists.

    Raises:
        OSError: the file system refuses.
    """
    tensors = {"embedding": direction.embedding.contiguous()}
    if direction.pooled is not None:
        tensors["pooled"] = direction.pooled.contiguous()
    header = {
        "shapes": {name: list(value.shape) for name, value in tensors.items()},
        "source": direction.source,
        "target": direction.target,
    }
    write_file(DIRECTION, path, header, tensors)


def load_direction(path: Path) -> EditDirection:
    """The direction of a file written by `save_direction`, bit for bit.

    Raises:
        InvalidInput: the file is missing, truncated, no direction, of another version, or its
            header and tensors do not agree.
    """
    return read_file(DIRECTION, path, _build)


def _build(header: Any, tensor: Tensors) -> EditDirection:
    tensors = {name: tensor(name) for name in header["shapes"]}
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    if shapes != header["shapes"]:
        raise ValueError(f"tensors of shapes {shapes}, header says {header['shapes']}")
    return EditDirection(source=str(header["source"]), target=str(header["target"]), **tensors)
