"""Find or install what the browser tests need: Chromium, and Playwright to drive it.

Chromium is the system's (or the one that NMG_CHROMIUM names); where there is none, and apt-get and
the right to use it are there, it is installed. Playwright goes into a cache folder of its own, so
that the host environment stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.console import ToolError, say
from tools.host_build import cache_root

PLAYWRIGHT = "playwright==1.65.2"
# In the order they are tried; Ubuntu's chromium-browser may be a stub that only starts a snap.
NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome")
APT_SECONDS = 600


class NoBrowser(ToolError):
    """No Chromium, or nothing to drive it, is there and none can be installed; says why."""


def browser_variables(python: Path) -> dict[str, str]:
    """What `python` needs in its environment to drive a browser.

    Raises:
        NoBrowser: there is none, or nothing to drive it.
    """
    chromium = find_chromium()
    return {"NMG_CHROMIUM": str(chromium), "PYTHONPATH": str(playwright_folder(python))}


def find_chromium() -> Path:
    """The browser's program, installed first if need be.

    Raises:
        NoBrowser: there is none.
    """
    if given := os.environ.get("NMG_CHROMIUM"):
        if not Path(given).is_file():
            raise NoBrowser(f"NMG_CHROMIUM names {given}, which is no file")
        return Path(given)
    found = _on_path()
    if found is None and _may_install():
        say("installing Chromium (once per machine)")
        _install()
        found = _on_path()
    if found is None:
        raise NoBrowser("there is no Chromium; install it, or name one with NMG_CHROMIUM")
    return found


def playwright_folder(python: Path) -> Path:
    """A folder to put on the path of `python`, in which Playwright is.

    Raises:
        NoBrowser: it could not be installed.
    """
    folder = cache_root() / f"{PLAYWRIGHT.replace('==', '-')}-{_tag(python)}"
    if not folder.is_dir():
        say(f"installing {PLAYWRIGHT} (once per machine)")
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # With the pip of this Python, which the host environment may not have.
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        done = subprocess.run([*command, "--target", str(made), PLAYWRIGHT], check=False)
        if done.returncode:
            shutil.rmtree(made, ignore_errors=True)
            raise NoBrowser(f"{PLAYWRIGHT} could not be installed; pip said why above")
        made.rename(folder)
    return folder


def _tag(python: Path) -> str:
    """What sets apart the packages of one Python from those of another."""
    code = "import sys; print(sys.implementation.cache_tag)"
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def _on_path() -> Path | None:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else None


def _may_install() -> bool:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return is_root and shutil.which("apt-get") is not None


def _install() -> None:
    """Chromium by apt-get; a failure shows in there being none afterwards."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        command = ["apt-get", "--quiet", *words]
        try:
            subprocess.run(
                command, env=quiet, stdout=subprocess.DEVNULL, timeout=APT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"apt-get: {error}")
