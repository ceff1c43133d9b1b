"""Run a script of this repository in the host environment, which is found or built first.

    python tools/run.py benchmarks/overhead.py --steps 20
    python tools/run.py demo/training/train.py
    python tools/run.py --browser tools/screenshots.py
    python tools/run.py --comfyui-version 0.24.1 benchmarks/overhead.py

Everything after the script's name goes to the script, which with --browser gets a browser too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.browser import browser_variables
from tools.console import ToolError, run_command
from tools.host_environment import add_arguments, find_or_build


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a script in the host environment.")
    parser.add_argument("--browser", action="store_true", help="with a browser to drive")
    add_arguments(parser)
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="go to the script")
    return parser.parse_args()


def main() -> int:
    """The command line; the script's own exit code."""
    options = _parse()
    if not options.script.is_file():
        raise ToolError(f"no script at {options.script}: name the file to run")
    environment = find_or_build(options.comfyui, options.python, version=options.comfyui_version)
    variables = {**os.environ, "COMFYUI_PATH": str(environment.comfyui)}
    if options.browser:
        variables.update(browser_variables(environment.python))
    command = [str(environment.python), str(options.script), *options.arguments]
    return subprocess.call(command, env=variables)


if __name__ == "__main__":
    sys.exit(run_command(main))
