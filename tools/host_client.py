"""A client of a running ComfyUI's HTTP interface: upload, queue, wait, download."""

from __future__ import annotations

import json
import mimetypes
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.console import ToolError
from tools.progress_socket import NodeProgress, ProgressSocket
from tools.workflow import Prompt

POLL_SECONDS = 0.3
ANSWER_SECONDS = 30


class HostError(ToolError):
    """The server cannot be reached, refused a prompt, or a node failed; says what it said."""


@dataclass(frozen=True)
class RunResult:
    """What a finished prompt left: each node's interface output by node id, and its seconds."""

    outputs: dict[str, dict[str, Any]]
    seconds: float

    def images(self, node_id: str) -> list[dict[str, str]]:
        """The pictures that a node saved, as `HostClient.download` takes them."""
        return self.outputs.get(node_id, {}).get("images", [])


class HostClient:
    """One running server, by its address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def object_info(self) -> dict[str, Any]:
        """Every node the host knows, with its inputs and outputs."""
        return self.get_json("/object_info")

    def upload_image(self, path: Path, name: str | None = None) -> str:
        """Put a picture into the host's input folder; gives the name LoadImage knows it by."""
        sent = name or path.name
        boundary = uuid.uuid4().hex
        kind = mimetypes.guess_type(sent)[0] or "application/octet-stream"
        body = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="image"; filename="{sent}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        ).encode()
        body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = json.loads(self._ask("/upload/image", body, headers))
        return "/".join(part for part in (answer.get("subfolder"), answer["name"]) if part)

    def run(
        self,
        prompt: Prompt,
        deadline: float = 1800.0,
        on_wait: Callable[[NodeProgress | None], None] = lambda progress: None,
    ) -> RunResult:
        """Queue a prompt and wait for its end.

        Args:
            prompt: API format, as `workflow.to_api` gives it.
            deadline: seconds after which the run is cancelled.
            on_wait: called often, with the running node's latest progress if there is any.

        Raises:
            HostError: the host refused the prompt, a node failed, the run was cancelled, or it
                took longer than `deadline` seconds (it is then cancelled).
        """
        client_id = uuid.uuid4().hex
        with _listen(self.url, client_id) as progress:
            answer = self.post_json("/prompt", {"prompt": prompt, "client_id": client_id})
            return self._wait(answer, progress, deadline, on_wait)

    def _wait(
        self,
        answer: Mapping[str, Any],
        progress: ProgressSocket,
        deadline: float,
        on_wait: Callable[[NodeProgress | None], None],
    ) -> RunResult:
        started = time.monotonic()
        prompt_id = answer["prompt_id"]
        if answer.get("node_errors"):
            # The host would run the outputs that are right and leave the others away.
            self._cancel(prompt_id)
            raise HostError(_objections(answer))
        while True:
            history = self.get_json(f"/history/{prompt_id}")
            if prompt_id in history:
                return _result(history[prompt_id])
            if time.monotonic() - started > deadline:
                self._cancel(prompt_id)
                raise HostError(f"the run took longer than {deadline:.0f} s and was cancelled")
            try:
                on_wait(progress.next(POLL_SECONDS))
            except OSError as error:
                raise HostError(f"ComfyUI at {self.url} does not answer: {error}") from error

    def _cancel(self, prompt_id: str) -> None:
        self.post_json("/queue", {"delete": [prompt_id]})
        self.post_json("/interrupt", {"prompt_id": prompt_id})

    def download(self, image: Mapping[str, str]) -> bytes:
        """The file of a picture that a run saved."""
        keys = ("filename", "subfolder", "type")
        query = urllib.parse.urlencode({key: image.get(key, "") for key in keys})
        return self._ask(f"/view?{query}")

    def get_json(self, path: str) -> Any:
        """The answer to a GET request.

        Raises:
            HostError: no answer, or one that is not a success.
        """
        return json.loads(self._ask(path))

    def post_json(self, path: str, value: object) -> Any:
        """The answer to a POST request; None if it is empty.

        Raises:
            HostError: no answer, or one that is not a success.
        """
        body = json.dumps(value).encode()
        answer = self._ask(path, body, {"Content-Type": "application/json"})
        return json.loads(answer) if answer else None

    def _ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers or {}))
        # Never through a proxy: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=ANSWER_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise HostError(_refusal(path, error.code, error.read())) from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise HostError(f"ComfyUI at {self.url} does not answer: {reason}") from error


def _listen(url: str, client_id: str) -> ProgressSocket:
    try:
        return ProgressSocket(url, client_id)
    except OSError as error:
        raise HostError(f"ComfyUI at {url} does not answer: {error}") from error


def _result(entry: Mapping[str, Any]) -> RunResult:
    """The result in a history entry; raises HostError with the node's own words if it failed."""
    status = entry.get("status") or {}
    times: dict[str, float] = {}
    for event, data in status.get("messages", []):
        times[event] = data.get("timestamp", 0) / 1000
        if event == "execution_error":
            raise HostError(
                f"{data['node_type']} (node {data['node_id']}) failed: "
                f"{data['exception_type']}: {data['exception_message'].strip()}"
            )
        if event == "execution_interrupted":
            raise HostError(f"the run was cancelled in {data.get('node_type')}")
    if status.get("status_str") != "success":
        raise HostError(f"the run ended as '{status.get('status_str')}' without a message")
    seconds = times.get("execution_success", 0.0) - times.get("execution_start", 0.0)
    return RunResult(entry["outputs"], seconds)


def _refusal(path: str, code: int, body: bytes) -> str:
    """What the host says instead of an answer."""
    try:
        return _objections(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"ComfyUI answered {path} with HTTP {code}: {body[:200].decode(errors='replace')}"


def _objections(answer: Mapping[str, Any]) -> str:
    """What the host objects to in a prompt, in its own words."""
    problems = [
        f"{node['class_type']} (node {node_id}): {error['message']} ({error['details']})"
        for node_id, node in (answer.get("node_errors") or {}).items()
        for error in node["errors"]
    ]
    if not problems:
        problems = [f"{answer['error']['message']} ({answer['error']['details']})"]
    return "ComfyUI refused the workflow: " + "; ".join(problems)
