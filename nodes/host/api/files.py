"""Files of the pack inside the host's input and output folders, and nowhere else.

A suffix tells its kinds apart.
"""

import unicodedata
from pathlib import Path

import folder_paths

from ....nmg_sampler import InvalidInput
from ....nmg_sampler.files import SUFFIX

# Of the 255 bytes that a name may have, counter, suffix and the name to write under take 75.
_LONGEST = 180
_NO_LETTERS = {"Cc", "Cs"}  # control characters, halves of characters


def new_file(prefix: str, suffix: str = SUFFIX) -> Path:
    """A file name of the output folder that does not exist yet: prefix, counter, suffix.

    A backslash parts folders on every system, as in a workflow that was made on Windows.

    Raises:
        InvalidInput: the prefix leads out of the output folder, or no file can be called so.
    """
    prefix = prefix.replace("\\", "/")
    _check_prefix(prefix)
    output = folder_paths.get_output_directory()
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise InvalidInput.of(
            "filename_prefix",
            "names a folder that cannot be used",
            f"{prefix!r}: {error.strerror or error}",
            "a name in a folder that can be written to",
            "Choose another folder.",
        ) from error
    except Exception as error:  # noqa: BLE001 (the host raises nothing more precise)
        raise InvalidInput.of(
            "filename_prefix",
            "leads out of the output folder",
            repr(prefix),
            "a name, with folders below the output folder if you like",
            "Remove '..' and absolute paths.",
        ) from error
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


def _check_prefix(prefix: str) -> None:
    """Raises InvalidInput if a file system would not take a part of it for a name."""
    for part in prefix.split("/"):
        length = len(part.encode("utf-8", "surrogatepass"))
        if any(unicodedata.category(letter) in _NO_LETTERS for letter in part):
            raise InvalidInput.of(
                "filename_prefix",
                "holds a character that a file name cannot have",
                repr(part),
                "letters, digits, spaces and signs",
                "Type the name anew.",
            )
        if length > _LONGEST:
            raise InvalidInput.of(
                "filename_prefix",
                "is too long",
                f"{length} bytes in {part[:20]!r}...",
                f"at most {_LONGEST} bytes in a name or folder",
                "Shorten it.",
            )


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
