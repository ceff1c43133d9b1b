"""Find or build the host environment: a ComfyUI and a Python that runs it.

    python tools/host_environment.py            # prints where it is; builds it if need be
    python tools/host_environment.py --rebuild  # builds it anew

Built once per machine, in the user's cache folder (elsewhere: environment variable NMG_CACHE), in
a folder named after a hash of everything that is pinned; `--comfyui-version` chooses the ComfyUI
that is built. `--comfyui PATH` or COMFYUI_PATH uses an existing ComfyUI instead, with the Python
found beside it, or the one that `--python` or COMFYUI_PYTHON names.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.console import ToolError, answer, run_command, say
from tools.host_build import build_host, cache_root, venv_python
from tools.host_releases import NEWEST, RELEASES, find_release

PROBE_SECONDS = 120
ACCELERATOR_PROBE = """
import torch
def works(name):
    try:
        return bool((torch.zeros(1, device=name) + 1).item())
    except Exception:
        return False
names = []
if torch.cuda.is_available(): names.append("cuda")
if hasattr(torch, "xpu") and torch.xpu.is_available(): names.append("xpu")
if torch.backends.mps.is_available(): names.append("mps")
print("accelerator:", next((n for n in names if works(n)), "cpu"))
"""


@dataclass(frozen=True)
class HostEnvironment:
    """A ComfyUI folder, the Python that runs it, and ComfyUI's version or "unknown"."""

    comfyui: Path
    python: Path
    version: str


def find_or_build(
    comfyui: str | os.PathLike[str] | None = None,
    python: str | os.PathLike[str] | None = None,
    *,
    version: str | None = None,
    rebuild: bool = False,
    installer: str = "uv",
) -> HostEnvironment:
    """The host environment, built first if this machine has none yet.

    Args:
        comfyui: an existing ComfyUI to use instead; COMFYUI_PATH if None.
        python: the Python of that ComfyUI; COMFYUI_PYTHON, or the one beside it, if None.
        version: the ComfyUI to build, whatever COMFYUI_PATH says; the newest known if None.
        rebuild: build the environment anew even if there is one.
        installer: "uv", or "pip" for machines where uv does not run.

    Raises:
        ToolError: no ComfyUI or no Python at the given place, the version is not known, or the
            build failed; the text says what to do.
    """
    if version and (comfyui or python):
        raise ToolError(
            f"--comfyui-version {version} builds a ComfyUI and its Python: leave --comfyui and "
            "--python away."
        )
    given = None if version else comfyui or os.environ.get("COMFYUI_PATH")
    if given:
        return existing_environment(Path(given), python or os.environ.get("COMFYUI_PYTHON"))
    release = find_release(version) if version else NEWEST
    folder = build_host(cache_root(), release, rebuild=rebuild, installer=installer)
    comfy = folder / "ComfyUI"
    return HostEnvironment(comfy, venv_python(folder / "venv"), comfyui_version(comfy))


def existing_environment(
    given: Path, python: str | os.PathLike[str] | None = None
) -> HostEnvironment:
    """The environment of a ComfyUI that is already installed.

    `given` is the folder with main.py, or the folder of a portable installation that holds it.

    Raises:
        ToolError: `given` is no ComfyUI, or `python` is no file.
    """
    root = given.expanduser().absolute()
    if not is_comfyui(root) and is_comfyui(root / "ComfyUI"):
        root = root / "ComfyUI"
    if not is_comfyui(root):
        raise ToolError(
            f"no ComfyUI at {root}: expected a folder with main.py, nodes.py and comfy/. "
            "Correct --comfyui or COMFYUI_PATH, or leave both away to have one built."
        )
    return HostEnvironment(root, _python_for(root, python), comfyui_version(root))


def is_comfyui(folder: Path) -> bool:
    """Whether `folder` is a ComfyUI source tree."""
    needed = ("main.py", "nodes.py", "folder_paths.py", "comfy/options.py")
    return all((folder / name).is_file() for name in needed)


def comfyui_version(folder: Path) -> str:
    """ComfyUI's version as its tree states it, or "unknown"."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'__version__\s*=\s*"([^"]+)"', text)
    return found.group(1) if found else "unknown"


def accelerator(python: Path) -> str:
    """The device on which this Python's torch can compute: "cuda", "xpu", "mps" or "cpu".

    Raises:
        ToolError: that Python cannot import torch.
    """
    command = [str(python), "-c", ACCELERATOR_PROBE]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{python} does not run: {error}") from error
    found = re.search(r"accelerator: (\w+)", done.stdout)
    if not found:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ToolError(
            f"{python} cannot use torch ({reason}). Name the Python that runs ComfyUI with "
            "--python or COMFYUI_PYTHON."
        )
    return found.group(1)


def _python_for(root: Path, given: str | os.PathLike[str] | None) -> Path:
    if given:
        # absolute(), not resolve(): a virtual environment's Python is a link to another one.
        python = Path(given).expanduser().absolute()
        if not python.is_file():
            raise ToolError(
                f"no Python at {python}. Correct --python or COMFYUI_PYTHON: the file that "
                "runs ComfyUI's main.py."
            )
        return python
    beside = [venv_python(root / name) for name in ("venv", ".venv")]
    beside += [venv_python(root.parent / name) for name in ("venv", ".venv")]
    beside += [root.parent / "python_embeded" / "python.exe"]
    return next((python for python in beside if python.is_file()), Path(sys.executable))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options with which every command chooses its host."""
    parser.add_argument(
        "--comfyui", metavar="PATH", help="an existing ComfyUI to use (or COMFYUI_PATH)"
    )
    parser.add_argument(
        "--python", metavar="FILE", help="the Python that runs it (or COMFYUI_PYTHON)"
    )
    known = ", ".join(release.comfyui for release in RELEASES)
    parser.add_argument(
        "--comfyui-version", metavar="X", help=f"the ComfyUI to build and use: {known}"
    )


def main() -> int:
    """The command line; prints ComfyUI's version and folder, the Python and the device."""
    parser = argparse.ArgumentParser(description="Find or build the host environment.")
    add_arguments(parser)
    parser.add_argument("--rebuild", action="store_true", help="build it anew")
    parser.add_argument("--installer", choices=("uv", "pip"), default="uv")
    options = parser.parse_args()
    environment = find_or_build(
        options.comfyui,
        options.python,
        version=options.comfyui_version,
        rebuild=options.rebuild,
        installer=options.installer,
    )
    say(f"ComfyUI {environment.version} on {accelerator(environment.python)}")
    answer(environment.comfyui)
    answer(environment.python)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
