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
from tools.strip import compose
from tools.workflow import find_node, load_workflow, to_api

PANELS = ("Source", "Reconstruction", "Attention maps", "Edit")
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


def draw(client: HostClient, path: Path) -> Path:
    """Run one workflow and write its thumbnail beside it."""
    prompt = to_api(load_workflow(path), client.object_info())
    if any(node["class_type"] in STAND_INS for node in prompt.values()):
        prompt = with_demo_model(prompt)
    result = client.run(prompt)
    titles = {node["_meta"]["title"] for node in prompt.values()}
    with tempfile.TemporaryDirectory() as temporary:
        panels = []
        for title in PANELS:
            if title in titles:
                file = Path(temporary) / f"{title}.png"
                image = result.images(find_node(prompt, title=title))[0]
                file.write_bytes(client.download(image))
                panels.append({"title": title.lower(), "text": "", "file": str(file)})
        strip = Path(temporary) / "strip.png"
        compose(panels, strip)
        thumbnail = Image.open(strip).convert("RGB")
        thumbnail.thumbnail((WIDTH_PX, WIDTH_PX), Image.Resampling.LANCZOS)
        thumbnail.save(path.with_suffix(".jpg"), quality=88)
    return path.with_suffix(".jpg")


def main() -> int:
    """The command line."""
    with host_server(find_or_build()) as server:
        for path in sorted((ROOT / "workflows").glob("*.json")):
            answer(draw(server.client, path))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
