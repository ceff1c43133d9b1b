"""Run the workflows and draw the thumbnails that the template browser shows beside them.

    python tools/run.py tools/thumbnails.py

A workflow that wants the user's own checkpoint and picture is run with the demo model and a demo
picture in their place.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image

from tools.console import answer, run_command
from tools.host_client import HostClient
from tools.host_environment import find_or_build
from tools.host_server import ROOT, host_server
from tools.strip import PAPER, compose
from tools.workflow import find_node, load_workflow, to_api

PANELS = ("Source", "Reconstruction", "Difference", "Attention maps", "Mask", "Edit")
BY_METHOD = "Edit: "  # and the method's name
IN_A_ROW = 4
SHEET = "Sheet"  # is the whole thumbnail: beside other panels its labels could not be read
WIDTH_PX = 800
STAND_INS = {"CheckpointLoaderSimple": "NMGDemoModel", "ImageScaleToTotalPixels": "NMGDemoPicture"}
EDIT = ("yellow triangle on a striped blue background", "red triangle on a striped blue background")


def with_demo_model(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with the demo model, its picture and its words where the user's own would be."""
    prompt = {key: node for key, node in prompt.items() if node["class_type"] != "LoadImage"}
    words = iter([f"a {words}" for words in EDIT])
    for node in prompt.values():
        stand_in = STAND_INS.get(node["class_type"])
        if stand_in is not None:
            node["class_type"] = stand_in
            node["inputs"] = {"seed": 24} if stand_in == "NMGDemoPicture" else {}
        elif node["class_type"] == "CLIPTextEncode" and node["inputs"]["text"]:
            node["inputs"]["text"] = next(words)
    return prompt


def shown_titles(prompt: dict[str, Any]) -> list[str]:
    """The titles of the pictures that a thumbnail shows, in its order."""
    titles = [node["_meta"]["title"] for node in prompt.values()]
    if SHEET in titles:
        return [SHEET]
    methods = [title for title in titles if title.startswith(BY_METHOD)]
    return [title for title in PANELS if title in titles] + methods


def draw(client: HostClient, path: Path) -> Path:
    """Run one workflow and write its thumbnail beside it."""
    prompt = to_api(load_workflow(path), client.object_info())
    if any(node["class_type"] in STAND_INS for node in prompt.values()):
        prompt = with_demo_model(prompt)
    result = client.run(prompt)
    titles = shown_titles(prompt)
    with tempfile.TemporaryDirectory() as temporary:
        pictures: dict[str, list[Path]] = {title: [] for title in titles}
        for row, title in enumerate(titles):
            for number, image in enumerate(result.images(find_node(prompt, title=title))):
                file = Path(temporary) / f"{row}-{number}.png"
                file.write_bytes(client.download(image))
                pictures[title].append(file)
        whole = pictures[SHEET][0] if SHEET in titles else _rows(pictures, Path(temporary))
        thumbnail = Image.open(whole).convert("RGB")
        thumbnail.thumbnail((WIDTH_PX, WIDTH_PX), Image.Resampling.LANCZOS)
        thumbnail.save(path.with_suffix(".jpg"), quality=88)
    return path.with_suffix(".jpg")


def _label(title: str) -> str:
    return title.removeprefix(BY_METHOD) if title.startswith(BY_METHOD) else title.lower()


def _rows(pictures: dict[str, list[Path]], folder: Path) -> Path:
    """Labelled panels, one per title; of a batch of sources each title has a row for itself."""
    panels = [
        [{"title": _label(title), "text": "", "file": str(file)} for file in files]
        for title, files in pictures.items()
    ]
    if len(pictures["Source"]) == 1:
        firsts = [row[0] for row in panels]
        panels = [firsts[start : start + IN_A_ROW] for start in range(0, len(firsts), IN_A_ROW)]
    strips = []
    for number, row in enumerate(panels):
        compose(row, folder / f"row {number}.png")
        strips.append(Image.open(folder / f"row {number}.png"))
    height = sum(strip.height for strip in strips)
    whole = Image.new("RGB", (strips[0].width, height), PAPER)
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    whole.save(folder / "rows.png")
    return folder / "rows.png"


def main() -> int:
    """The command line."""
    with host_server(find_or_build()) as server:
        for path in sorted((ROOT / "workflows").glob("*.json")):
            answer(draw(server.client, path))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
