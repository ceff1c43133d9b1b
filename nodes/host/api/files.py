"""Files of the pack inside the host's input and output folders, and nowhere else.

A suffix tells its kinds apart.
"""

from pathlib import Path

import folder_paths

from ....nmg_sampler import InvalidInput
from ....nmg_sampler.files import SUFFIX


def new_file(prefix: str, suffix: str = SUFFIX) -> Path:
    """A file name of the output folder that does not exist yet: prefix, counter, suffix.

    Raises:
        InvalidInput: the prefix leads out of the output folder.
    """
    output = folder_paths.get_output_directory()
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, output)
    except Exception as error:  # noqa: BLE001 (the host raises nothing more precise)
        raise InvalidInput.of(
            "filename_prefix",
            "leads out of the output folder",
            repr(prefix),
            "a name, with folders below the output folder if you like",
            "Remove '..' and absolute paths.",
        ) from error
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


def list_files(suffix: str = SUFFIX) -> list[str]:
    """Names of all files of a kind, as 'input/...' and 'output/...', sorted."""
    return sorted(
        f"{label}/{path.relative_to(root).as_posix()}"
        for label, root in _roots().items()
        for path in root.rglob(f"*{suffix}")
    )


def find_file(name: str, suffix: str = SUFFIX) -> Path:
    """The file of a name as `list_files` gives it.

    Raises:
        InvalidInput: there is no such file, or the name leads out of the two folders.
    """
    label, _, rest = name.replace("\\", "/").partition("/")
    root = _roots().get(label)
    path = None if root is None or "\0" in rest else (root / rest).resolve()
    if path is None or not path.is_relative_to(root.resolve()) or not name.endswith(suffix):
        raise InvalidInput.of(
            "file",
            "is outside the folders this node reads",
            repr(name),
            f"'input/...' or 'output/...' ending in {suffix}",
            "Copy the file into ComfyUI's input folder and choose it from the list.",
        )
    if not path.is_file():
        raise InvalidInput.of(
            "file", "does not exist", repr(name), "one of the list", "Refresh the list (R)."
        )
    return path


def _roots() -> dict[str, Path]:
    return {
        "input": Path(folder_paths.get_input_directory()),
        "output": Path(folder_paths.get_output_directory()),
    }
