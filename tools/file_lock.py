"""A lock between processes that the operating system releases when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


POLL_SECONDS = 0.2


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold an exclusive lock on the file `path` (created if need be) inside the `with` block.

    Calls `on_wait` once if somebody else holds it. Gives the lock's file descriptor: a child
    process that inherits it keeps the lock alive for as long as the child lives, so work that
    outlives a killed parent still counts as work in progress (POSIX only).

    Raises OSError if the file cannot be opened or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(descriptor):
            on_wait()
            while not _try_lock(descriptor):
                time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        # Closing is what releases: an explicit unlock would also unlock a child that inherited it.
        os.close(descriptor)
