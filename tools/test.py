"""Run the tests in the host environment, which is found or built first.

    python tools/test.py                       # lint, every tier, and the oldest ComfyUI
    python tools/test.py --tier unit -- -k grid -x
    python tools/test.py --tier host -- tests/host/test_gradient.py
    python tools/test.py --comfyui-version 0.24.1   # the host tier on another ComfyUI

A tier is a folder below tests/. Everything after `--` goes to pytest. What is tested is the newest
ComfyUI known to tools/host_releases.py. With `--tier all` what may differ between ComfyUI versions,
the host tests marked `host_surface`, runs on the oldest one as well; all of them do with
`--comfyui-version`. A ComfyUI that is chosen, by an option or COMFYUI_PATH, is the only one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.browser import NoBrowser, browser_variables
from tools.console import ToolError, answer, run_command, say
from tools.host_environment import HostEnvironment, add_arguments, find_or_build
from tools.host_releases import OLDEST

ROOT = Path(__file__).resolve().parents[1]
TIERS = ("unit", "parity", "host", "browser")  # each one a folder
ALL = ("lint", *TIERS)
# Tiers that run in several processes, and how pytest-xdist deals their tests out: in the host tier
# the tests of a file share its models and its server. A browser is one for all.
DEALT = {"unit": "worksteal", "parity": "worksteal", "host": "loadfile"}
MOST_PROCESSES = 4  # with a ComfyUI in it, each takes some 2 GB
SURFACE = "host_surface"  # the marker of what may differ between ComfyUI versions
SLOWEST = 25  # tests whose seconds are told at the end of a tier
NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Result:
    """How one part of the run ended."""

    name: str
    passed: bool
    seconds: float
    note: str

    def line(self) -> str:
        word = "ok" if self.passed else "FAILED"
        return f"  {self.name:<11} {word:<7} {self.seconds:7.1f} s  {self.note}"


def run_tier(tier: str, environment: HostEnvironment, arguments: list[str]) -> Result:
    """Pytest over tests/<tier>; its output goes straight to the terminal."""
    say(f"\n== {tier} ==")
    folder = ROOT / "tests" / tier
    if not folder.is_dir():
        return Result(tier, False, 0.0, f"there is no folder tests/{tier}")
    started = time.monotonic()
    try:
        variables = _variables(tier, environment)
    except NoBrowser as reason:
        return Result(tier, True, 0.0, f"skipped: {reason}")
    except ToolError as error:
        return Result(tier, False, 0.0, str(error))
    whole = not any(_is_place(argument) for argument in arguments)
    places = [str(folder)] if whole else []
    if whole and tier in DEALT and _has_module(environment, "xdist"):
        processes = min(os.cpu_count() or 1, MOST_PROCESSES)
        places += ["-n", str(processes), "--dist", DEALT[tier]]
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        command = [str(environment.python), "-m", "pytest", *places]
        command += [f"--durations={SLOWEST}", f"--junitxml={report}"]
        code = _call([*command, *arguments], variables)
        note = _counts(report)
    if code == NOTHING_COLLECTED:
        note = "pytest found no test to run"
    elif code not in (0, 1):
        note = f"pytest ended with exit code {code}; {note}"
    return Result(tier, code == 0, time.monotonic() - started, note)


def run_oldest(found: Future[HostEnvironment], arguments: list[str]) -> Result:
    """What may differ on it, of the host tier, on the oldest ComfyUI that the pack supports."""
    name = f"host {OLDEST.comfyui}"
    try:
        environment = found.result()
    except ToolError as error:
        return Result(name, False, 0.0, str(error))
    say(f"\nComfyUI {environment.version} in {environment.comfyui}")
    return replace(run_tier("host", environment, ["-m", SURFACE, *arguments]), name=name)


def _is_place(argument: str) -> bool:
    """Whether a pytest argument is a test file, a folder of tests or one test."""
    return argument.startswith("tests/") or ".py" in argument


def run_lint(environment: HostEnvironment) -> Result:
    """Ruff's rules and its format over the repository; skipped where ruff is not installed."""
    say("\n== lint ==")
    started = time.monotonic()
    if not _has_module(environment, "ruff"):
        return Result("lint", True, 0.0, "skipped: this Python has no ruff")
    ruff = [str(environment.python), "-m", "ruff"]
    failed = [
        name
        for name, words in (("check", ["check"]), ("format", ["format", "--check"]))
        if _call([*ruff, *words, str(ROOT)], dict(os.environ)) != 0
    ]
    note = f"ruff {' and '.join(failed)} complained" if failed else ""
    return Result("lint", not failed, time.monotonic() - started, note)


def _variables(tier: str, environment: HostEnvironment) -> dict[str, str]:
    """The test process's variables: where ComfyUI is, except for the tier that must not need it.

    Raises:
        NoBrowser: the tier wants a browser and there is none, or nothing to drive it.
    """
    variables = dict(os.environ)
    variables.pop("PYTHONPATH", None)
    variables.pop("COMFYUI_PATH", None)
    variables.pop("COMFYUI_PYTHON", None)
    if tier != "unit":
        variables["COMFYUI_PATH"] = str(environment.comfyui)
        variables["COMFYUI_PYTHON"] = str(environment.python)
    if tier in DEALT:
        # Their networks are small: a second thread waits more than it works.
        variables.setdefault("OMP_NUM_THREADS", "1")
    if tier == "browser":
        variables.update(browser_variables(environment.python))
    return variables


def _call(command: list[str], variables: dict[str, str]) -> int:
    sys.stdout.flush()
    return subprocess.call(command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL)


def _counts(report: Path) -> str:
    """What a JUnit report says, as "12 passed, 1 skipped"."""
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        return "no report"
    if suite is None:
        return "no report"
    total, failed, errors, skipped = (
        int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
    )
    counts = {
        "passed": total - failed - errors - skipped,
        "failed": failed,
        "errors": errors,
        "skipped": skipped,
    }
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n or name == "passed")


def _has_module(environment: HostEnvironment, name: str) -> bool:
    command = [str(environment.python), "-c", f"import {name}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description="Run the tests in the host environment.",
        epilog="Everything after -- goes to pytest.",
    )
    parser.add_argument(
        "--tier", choices=("lint", *TIERS, "all"), help="all, or host with --comfyui-version"
    )
    add_arguments(parser)
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.tier = options.tier or ("host" if options.comfyui_version else "all")
    return options, words[end + 1 :]


def main() -> int:
    """The command line; 0 only if everything passed."""
    options, arguments = _parse()
    if options.tier in ("all", "lint") and any(map(_is_place, arguments)):
        raise ToolError("a test file belongs to one tier: name it with --tier")
    environment = find_or_build(options.comfyui, options.python, version=options.comfyui_version)
    say(f"ComfyUI {environment.version} in {environment.comfyui}")
    say(f"Python {environment.python}")
    parts = ALL if options.tier == "all" else (options.tier,)
    if parts != ("lint",) and not _has_module(environment, "pytest"):
        raise ToolError(
            f"{environment.python} has no pytest. Install it there: "
            f'"{environment.python}" -m pip install pytest pytest-timeout scikit-image'
        )
    chosen = options.comfyui or options.comfyui_version or os.environ.get("COMFYUI_PATH")
    both = options.tier == "all" and not chosen
    with ThreadPoolExecutor(1) as builder:
        # On a fresh machine it is built meanwhile: that waits for the network more than it works.
        oldest = builder.submit(find_or_build, version=OLDEST.comfyui) if both else None
        results = [
            run_lint(environment) if part == "lint" else run_tier(part, environment, arguments)
            for part in parts
        ]
        if oldest is not None:
            results.append(run_oldest(oldest, arguments))
    answer("\nsummary")
    for result in results:
        answer(result.line())
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
