"""Run a real ComfyUI server with this checkout as its custom node."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.console import ToolError
from tools.host_client import HostClient, HostError
from tools.host_environment import HostEnvironment, accelerator

ROOT = Path(__file__).resolve().parents[1]
PACK_NAME = "noise-map-guidance"
READY_SECONDS = 300.0  # a cold start reads gigabytes: minutes on a slow disk
STOP_SECONDS = 15.0
RETRIES = 2
TAIL_LINES = 15
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "output", "__pycache__", ".*_cache", ".nmg*")


class PortTaken(ToolError):
    """Somebody took the port between its choice and the server's start."""


@dataclass(frozen=True)
class HostServer:
    """A running server: its client, its own base folder, its log and its process."""

    client: HostClient
    base: Path
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def host_server(
    environment: HostEnvironment,
    *,
    pack: Path = ROOT,
    arguments: Sequence[str] = (),
    deadline: float = READY_SECONDS,
    device: str | None = None,
) -> Iterator[HostServer]:
    """A server that answers, inside the `with` block; stopped and its folder removed after it.

    It has a base folder of its own (models, input, output, user, custom nodes): nothing is read
    from or written into the folders of an existing ComfyUI, and `pack` is its only custom node.

    Args:
        environment: which ComfyUI, and the Python that runs it.
        pack: the checkout to load.
        arguments: more arguments for ComfyUI's main.py.
        deadline: seconds until it must answer.
        device: "cpu" to use no accelerator; None to use one where it works.

    Raises:
        ToolError: it did not start; the text ends with the last lines of its log.
    """
    device = device or accelerator(environment.python)
    flags = ["--cpu", *arguments] if device == "cpu" else list(arguments)
    base = Path(tempfile.mkdtemp(prefix="nmg-host-"))
    link = base / "custom_nodes" / PACK_NAME
    server: HostServer | None = None
    try:
        link.parent.mkdir()
        link_folder(pack, link)
        server = _start(environment, base, flags, deadline)
        yield server
    except HostError as error:
        if server is None or server.process.poll() is None:
            raise
        code = server.process.returncode
        raise ToolError(
            f"{error}; the server ended with exit code {code}. Its last lines:\n{tail(server.log)}"
        ) from error
    finally:
        if server is not None:
            stop(server.process)
        unlink_folder(link)
        shutil.rmtree(base, ignore_errors=True)


def link_folder(target: Path, link: Path) -> None:
    """Make `link` show the folder `target`: a link, on Windows a junction, else a copy."""
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        # Windows asks for a privilege for links, but not for junctions.
        command = ["cmd", "/c", "mklink", "/J", str(link), str(target)]
        if sys.platform == "win32" and subprocess.call(command, stdout=subprocess.DEVNULL) == 0:
            return
        shutil.copytree(target, link, ignore=NOT_COPIED)


def unlink_folder(link: Path) -> None:
    """Remove what `link_folder` made, never what it shows."""
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        try:
            link.rmdir()  # a junction; refuses a copy, which is not empty
        except OSError:
            shutil.rmtree(link, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server: asked first, killed if it does not go."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _start(
    environment: HostEnvironment, base: Path, flags: Sequence[str], deadline: float
) -> HostServer:
    for _ in range(RETRIES):
        try:
            return _start_once(environment, base, flags, deadline)
        except PortTaken:
            continue
    return _start_once(environment, base, flags, deadline)


def _start_once(
    environment: HostEnvironment, base: Path, flags: Sequence[str], deadline: float
) -> HostServer:
    port = _free_port()
    log = base / "server.log"
    command = [str(environment.python), str(environment.comfyui / "main.py")]
    command += ["--base-directory", str(base), "--listen", "127.0.0.1", "--port", str(port)]
    # Its default database lies in ComfyUI's folder, whatever the base directory is; in one in
    # memory ComfyUI 0.16 does not find its own tables.
    command += ["--database-url", f"sqlite:///{(base / 'database.db').as_posix()}"]
    command += ["--disable-auto-launch"]
    command += ["--disable-api-nodes", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=environment.comfyui,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which then stops the server itself.
            start_new_session=sys.platform != "win32",
        )
    client = HostClient(f"http://127.0.0.1:{port}")
    try:
        _wait_until_ready(client, process, base, deadline)
    except BaseException:
        stop(process)
        raise
    return HostServer(client, base, log, process)


def _wait_until_ready(
    client: HostClient, process: subprocess.Popen[bytes], base: Path, deadline: float
) -> None:
    log = base / "server.log"
    started = time.monotonic()
    while True:
        if process.poll() is not None:
            text = tail(log)
            kind = PortTaken if "already in use" in text else ToolError
            raise kind(
                f"ComfyUI did not start (exit code {process.returncode}). Its last lines:\n{text}"
            )
        try:
            # Another program could have taken the port: only the one with our folder counts.
            if str(base) in client.get_json("/system_stats")["system"]["argv"]:
                return
        except HostError:
            pass
        if time.monotonic() - started > deadline:
            raise ToolError(
                f"ComfyUI did not answer within {deadline:.0f} s. Its last lines:\n{tail(log)}"
            )
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
