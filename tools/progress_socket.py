"""Listen to ComfyUI's progress messages: the receiving half of a websocket, nothing more."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import urllib.parse
from dataclasses import dataclass
from types import TracebackType

TEXT, CLOSE = 1, 8
HANDSHAKE_SECONDS = 10


@dataclass(frozen=True)
class NodeProgress:
    """How far the node that runs now is, in its own steps."""

    node_id: str
    step: int
    steps: int


class ProgressSocket:
    """The messages about what one client queued. Raises OSError where there is no connection."""

    def __init__(self, url: str, client_id: str) -> None:
        address = urllib.parse.urlsplit(url)
        if address.hostname is None or address.port is None:
            raise OSError(f"no host and port in {url}")
        self._socket = socket.create_connection(
            (address.hostname, address.port), timeout=HANDSHAKE_SECONDS
        )
        self._received = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /ws?clientId={client_id} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            self._socket.close()
            raise OSError(f"no websocket at {url}")

    def __enter__(self) -> ProgressSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def next(self, seconds: float) -> NodeProgress | None:
        """The next progress message, or None if none comes within `seconds`."""
        self._socket.settimeout(seconds)
        try:
            while True:
                while (frame := self._take_frame()) is None:
                    self._receive()
                if (progress := _progress(*frame)) is not None:
                    return progress
        except TimeoutError:
            return None

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the websocket")
        self._received += data

    def _take_frame(self) -> tuple[int, bytes] | None:
        """Operation and content of a complete frame (RFC 6455, 5.2); None if more must come."""
        data = self._received
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if size >= 126:
            code, start = ("!H", 4) if size == 126 else ("!Q", 10)
            if len(data) < start:
                return None
            (size,) = struct.unpack(code, data[2:start])
        if len(data) < start + size:
            return None
        self._received = data[start + size :]
        return data[0] & 0x0F, data[start : start + size]


def _progress(operation: int, content: bytes) -> NodeProgress | None:
    if operation == CLOSE:
        raise ConnectionError("the server closed the websocket")
    if operation != TEXT:
        return None  # a preview picture
    message = json.loads(content)
    if message.get("type") != "progress":
        return None
    data = message["data"]
    return NodeProgress(str(data["node"]), int(data["value"]), int(data["max"]))
