"""The pictures of the documentation that are photographs of the interface: where, and how large."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tools.host_server import ROOT

IMAGES = ROOT / "docs" / "images"
GRAPH = IMAGES / "graph.png"  # of workflows/edit.json
GRAPH_BYTES, NODE_BYTES = 300_000, 30_000
SCALE = 2.0  # for screens with twice as many pixels
COLOURS = (256, 128, 64, 32, 16)  # the first that is small enough
ROUNDS = 4  # of choosing them better


def node_picture(node: str) -> Path:
    """Where the picture of a node's help page lies."""
    return ROOT / "web" / "docs" / node / "node.png"


def workflow_picture(name: str) -> Path:
    """Where the picture of a workflow lies that docs/workflows.md shows."""
    return GRAPH if name == "edit" else IMAGES / "workflows" / f"{name}.png"


def small_png(picture: bytes, limit: int, workflow: Mapping[str, Any] | None = None) -> bytes:
    """A PNG of at most `limit` bytes, with as many colours as fit.

    Args:
        picture: any picture file.
        limit: bytes.
        workflow: carried along, as by the host's own pictures: dropped on the canvas it opens.

    Raises:
        ValueError: it is larger even with the fewest.
    """
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    carried = PngInfo()
    if workflow is not None:
        carried.add_text("workflow", json.dumps(workflow, separators=(",", ":")))
    for colours in COLOURS:
        file = io.BytesIO()
        # Of the library's ways, with rounds, the one that keeps small patches of colour best.
        way = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": ROUNDS, "dither": Image.Dither.NONE}
        reduced = image.quantize(colours, **way)
        reduced.save(file, "PNG", optimize=True, pnginfo=carried)
        if file.tell() <= limit:
            return file.getvalue()
    raise ValueError(f"the picture has {file.tell()} bytes with {colours} colours, over {limit}")
