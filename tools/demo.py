"""Edit a picture in a real ComfyUI: source, reconstruction and edit as one labelled strip.

    python tools/demo.py
    python tools/demo.py photo.jpg --from "a red circle" --to "a blue circle"
    python tools/demo.py --ui                 # and leaves ComfyUI running, to look around

Finds or builds the host environment, starts ComfyUI with this checkout as its custom node and runs
workflows/edit.json through its API.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.console import Steps, ToolError, answer, run_command, say
from tools.host_client import HostClient, RunResult
from tools.host_environment import HostEnvironment, add_arguments, find_or_build
from tools.host_server import PACK_NAME, ROOT, HostServer, host_server
from tools.progress_socket import NodeProgress
from tools.workflow import (
    WorkflowError,
    find_node,
    find_upstream,
    load_workflow,
    set_input,
    to_api,
)

WORKFLOW = ROOT / "workflows" / "edit.json"
STRIP = Path(__file__).resolve().with_name("strip.py")
SIZE_PX = 128  # what the demo model was trained on
PANELS = ("Source", "Reconstruction", "Edit")
ROUND_TRIP, MASK = "Round trip", "Mask"


@dataclass(frozen=True)
class Task:
    """What the command line asks for; None is what the workflow has."""

    picture: Path | None
    source: str | None
    target: str | None

    @property
    def stem(self) -> str:
        """What the names of the results begin with."""
        return self.picture.stem if self.picture else "demo"


def read_task(picture: str | None, source: str | None, target: str | None) -> Task:
    """The task that the command line describes.

    Raises:
        ToolError: there is no such file, or nothing says what the picture shall become.
    """
    if picture is None:
        return Task(None, source, target)
    path = Path(picture).expanduser()
    if not path.is_file():
        raise ToolError(f"no picture at {path}. Give the path of a PNG, JPEG or WebP file.")
    if target is None:
        raise ToolError(
            'say what the picture shall become: --to "a blue circle", and best also what it shows '
            'now: --from "a red circle". The words that the demo model knows are in demo/README.md.'
        )
    return Task(path, source or "", target)


class Edit:
    """The workflow as a prompt with the task's words in it, and the VAE's round trip added.

    Attributes:
        seed: of the demo picture, if that is edited as the workflow says; or None.

    Raises:
        WorkflowError: the workflow lacks a node that the task needs.
    """

    def __init__(self, workflow: Mapping[str, Any], info: Mapping[str, Any], task: Task) -> None:
        self.prompt = prompt = to_api(workflow, info)
        sampler = find_upstream(prompt, find_node(prompt, title="Edit"), "NMGSample")
        inversion = find_upstream(prompt, sampler, "NMGInvert")
        self.source = self._words(inversion, task.source)
        self.target = self._words(sampler, task.target)
        self._encoder = find_upstream(prompt, inversion, "VAEEncode")
        self.seed = None
        if task.picture is None and task.target is None:
            drawn = prompt[find_upstream(prompt, inversion, "NMGDemoPicture")]
            self.seed = int(drawn["inputs"]["seed"])
        decoder = {"samples": [self._encoder, 0], "vae": self._link(self._encoder, "vae")}
        prompt["trip"] = _node("VAEDecode", "decode", decoder)
        prompt["trip-image"] = _node("PreviewImage", ROUND_TRIP, {"images": ["trip", 0]})

    def load(self, name: str) -> None:
        """Take the picture from this file in the host's input folder."""
        origin, _ = self._link(self._encoder, "pixels")
        self.prompt[origin] = _node("LoadImage", "picture", {"image": name})

    def where(self, progress: NodeProgress | None) -> str:
        """The running node and its step, for the terminal."""
        if progress is None or progress.node_id not in self.prompt:
            return ""
        title = self.prompt[progress.node_id]["_meta"]["title"]
        return f"{title}, step {progress.step} of {progress.steps}"

    def _words(self, node_id: str, text: str | None) -> str:
        """The text of the positive prompt of a node, replaced by `text` if that is given."""
        encoder, _ = self._link(node_id, "positive")
        if text is not None:
            set_input(self.prompt, encoder, "text", text)
        return str(self.prompt[encoder]["inputs"]["text"])

    def _link(self, node_id: str, name: str) -> list[Any]:
        link = self.prompt[node_id]["inputs"].get(name)
        if not isinstance(link, list):
            raise WorkflowError(f"{WORKFLOW.name}: input '{name}' of node {node_id} is not wired")
        return link


def _node(class_type: str, title: str, inputs: dict[str, object]) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def fit_picture(environment: HostEnvironment, picture: Path, result: Path) -> None:
    """Write the picture in the demo model's size, and say so if that changed it."""
    size = _run_strip(environment, ["fit", str(picture), str(SIZE_PX), str(result)])
    width, height = size["width"], size["height"]
    if (width, height) != (SIZE_PX, SIZE_PX):
        say(
            f"{picture.name}: {width}x{height}, its centre resized to {SIZE_PX}x{SIZE_PX}, "
            "the size of the demo model"
        )


def run_edit(client: HostClient, edit: Edit) -> RunResult:
    """Run the prompt, showing where it is."""
    steps = Steps(1)
    latest = ""

    def show(progress: NodeProgress | None) -> None:
        nonlocal latest
        latest = edit.where(progress) or latest
        steps.tick(latest)

    with steps.step("editing"):
        return client.run(edit.prompt, on_wait=show)


def save_panels(
    client: HostClient, edit: Edit, result: RunResult, folder: Path, stem: str
) -> dict[str, Path]:
    """Download the panels and the round trip into `folder`; paths by title.

    Raises:
        ToolError: the workflow has no such picture.
    """
    files = {}
    for title in (*PANELS, ROUND_TRIP):
        images = result.images(find_node(edit.prompt, title=title))
        if not images:
            raise ToolError(f"{WORKFLOW.name}: the node titled '{title}' saved no picture")
        files[title] = folder / f"{stem}-{title.lower().replace(' ', '-')}.png"
        files[title].write_bytes(client.download(images[0]))
    return files


def model_calls(result: RunResult) -> str:
    """How often the model ran, as the pack's nodes report it."""
    totals: dict[str, int] = {}
    for output in result.outputs.values():
        for cost in output.get("nmg", []):
            for name, count in cost.items():
                if isinstance(count, int):
                    totals[name] = totals.get(name, 0) + count
    if not totals:
        return "not reported by the nodes"
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in totals.items())


def write_strip(
    environment: HostEnvironment, files: Mapping[str, Path], edit: Edit, result: Path
) -> dict[str, float]:
    """Compose the labelled strip; gives the PSNRs of reconstruction and round trip in dB, and of
    the edit outside the object if there is a mask of that."""
    texts = {"Source": edit.source, "Reconstruction": edit.source, "Edit": edit.target}
    source, reconstruction, trip = (
        str(files[title]) for title in ("Source", "Reconstruction", ROUND_TRIP)
    )
    notes = {"Reconstruction": "{round trip:.1f} dB to what the VAE alone gives"}
    outside = {}
    if MASK in files:
        notes["Edit"] = "{outside:.1f} dB to that outside the object"
        outside = {"outside": (str(files["Edit"]), trip, str(files[MASK]))}
    description = {
        "panels": [
            {
                "title": title.lower(),
                "text": texts[title],
                "file": str(files[title]),
                "note": notes.get(title, ""),
            }
            for title in PANELS
        ],
        "measure": {
            "picture": (reconstruction, source),
            "ceiling": (trip, source),
            "round trip": (reconstruction, trip),
            **outside,
        },
    }
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "description.json"
        path.write_text(json.dumps(description), encoding="utf-8")
        return _run_strip(environment, ["compose", str(path), str(result)])


def _run_strip(environment: HostEnvironment, arguments: Sequence[str]) -> dict[str, Any]:
    command = [str(environment.python), str(STRIP), *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ToolError(f"picture cannot be used: {reason}")
    return json.loads(done.stdout)


def _report(result: RunResult, decibels: Mapping[str, float], paths: Sequence[Path]) -> None:
    answer(
        f"reconstruction  {decibels['picture']:.1f} dB to the picture (the VAE alone: "
        f"{decibels['ceiling']:.1f} dB), {decibels['round trip']:.1f} dB to the VAE's own"
    )
    if "outside" in decibels:
        answer(f"edit            {decibels['outside']:.1f} dB to that outside the object")
    answer(f"model calls     {model_calls(result)}")
    answer(f"seconds         {result.seconds:.1f}")
    for path in paths:
        answer(path)


def _keep_running(server: HostServer) -> None:
    answer(f"open            {server.client.url}/?template={WORKFLOW.stem}&source={PACK_NAME}")
    say("Pictures that you make there land in the output folder. Ctrl-C stops ComfyUI.")
    while server.process.poll() is None:
        time.sleep(0.5)
    raise ToolError(f"ComfyUI ended by itself with exit code {server.process.returncode}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Edit a picture in a real ComfyUI.")
    parser.add_argument("picture", nargs="?", help="default: the one in the workflow")
    parser.add_argument("--from", dest="source", metavar="PROMPT", help="what it shows")
    parser.add_argument("--to", dest="target", metavar="PROMPT", help="what it shall show")
    parser.add_argument("--output", type=Path, default=ROOT / "output", metavar="DIR")
    parser.add_argument("--ui", action="store_true", help="leave ComfyUI running afterwards")
    add_arguments(parser)
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = _parse()
    task = read_task(options.picture, options.source, options.target)
    workflow = load_workflow(WORKFLOW)
    output = options.output.expanduser().absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"cannot write into {output}: {error.strerror}. Set --output.") from error
    environment = find_or_build(options.comfyui, options.python, version=options.comfyui_version)
    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary) / f"{task.stem}.png"
        if task.picture:
            fit_picture(environment, task.picture, picture)
        say(f"starting ComfyUI {environment.version}")
        arguments = ["--output-directory", str(output)] if options.ui else []
        with host_server(environment, arguments=arguments) as server:
            edit = Edit(workflow, server.client.object_info(), task)
            if task.picture:
                edit.load(server.client.upload_image(picture))
            result = run_edit(server.client, edit)
            files = save_panels(server.client, edit, result, output, task.stem)
            strip = output / f"{task.stem}-strip.png"
            if edit.seed is not None:
                files[MASK] = Path(temporary) / "mask.png"
                _run_strip(environment, ["mask", str(edit.seed), str(files[MASK])])
            decibels = write_strip(environment, files, edit, strip)
            _report(result, decibels, [strip, *(files[title] for title in PANELS)])
            if options.ui:
                _keep_running(server)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
