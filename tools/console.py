"""What the commands of this folder share: one-line errors, step-by-step progress, a clean stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

HEARTBEAT_SECONDS = 30


class ToolError(RuntimeError):
    """Something the user can act on; its text is one line: what happened, what to do."""


class Interrupted(ToolError):
    """The user stopped the command."""


class Steps:
    """Prints numbered steps with the seconds each took, to standard error.

    On a terminal the seconds run; elsewhere a long step prints a line now and then, so that
    whoever watches a log sees that it lives.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._text = ""
        self._started = 0.0
        self._printed = 0.0
        self._width = 0

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        self._number += 1
        self._text = f"[{self._number}/{self._total}] {text}"
        self._started = self._printed = time.monotonic()
        self._write("..." if _is_terminal() else " ...\n")
        yield
        seconds = time.monotonic() - self._started
        self._write(f", {seconds:.1f} s\n")

    def tick(self, detail: str = "") -> None:
        """Show that the current step still runs, and how far it is. To be called often."""
        now = time.monotonic()
        text = f", {now - self._started:.0f} s {detail}".rstrip()
        if _is_terminal():
            self._write(text)
        elif now - self._printed >= HEARTBEAT_SECONDS:
            self._printed = now
            self._write(f" ...{text}\n")

    def _write(self, ending: str) -> None:
        text = self._text + ending
        if _is_terminal():
            # Over the longer text that stood there before.
            text = "\r" + text.rstrip("\n").ljust(self._width) + ("\n" * text.count("\n"))
            self._width = len(text.strip())
        sys.stderr.write(text)
        sys.stderr.flush()


def say(text: str) -> None:
    """Print one line of progress to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def answer(text: object) -> None:
    """Print one line of result to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_command(main: Callable[[], int]) -> int:
    """Exit code of `main`; a ToolError becomes one line and 1, an interrupt one line and 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return main()
    except (KeyboardInterrupt, Interrupted):
        say("\nstopped")
        return 130
    except ToolError as error:
        if _is_terminal():
            say("")
        say(f"error: {error}")
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    # As with Ctrl-C, so that servers and builds are ended by their `finally`.
    raise KeyboardInterrupt


def _is_terminal() -> bool:
    return sys.stderr.isatty()
