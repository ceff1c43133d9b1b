"""Run a script of this repository in the host environment, which is found or built first.

    python tools/run.py benchmarks/overhead.py --steps 20
    python tools/run.py demo/train.py
    python tools/run.py --browser tools/screenshots.py

Everything after the script's name goes to the script, which with --browser gets a browser too.
COMFYUI_PATH names an existing ComfyUI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.browser import browser_variables
from tools.console import ToolError, run_command
from tools.host_environment import find_or_build

BROWSER = "--browser"


def main() -> int:
    """The command line; the script's own exit code."""
    with_browser = sys.argv[1:2] == [BROWSER]
    words = sys.argv[2:] if with_browser else sys.argv[1:]
    if not words or not Path(words[0]).is_file():
        raise ToolError(f"say which script to run: python {sys.argv[0]} SCRIPT [ARGUMENT ...]")
    environment = find_or_build()
    variables = {**os.environ, "COMFYUI_PATH": str(environment.comfyui)}
    if with_browser:
        variables.update(browser_variables(environment.python))
    return subprocess.call([str(environment.python), *words], env=variables)


if __name__ == "__main__":
    sys.exit(run_command(main))
