"""Photograph the pack in the web interface, for the documentation.

    python tools/run.py --browser tools/screenshots.py             # all
    python tools/run.py --browser tools/screenshots.py NMGSample   # only of these nodes

The graph of workflows/edit.json, after a run, becomes docs/images/graph.png, which carries the
workflow; every node alone becomes web/docs/<node>/node.png, the picture of its help page.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.console import answer, run_command
from tools.host_environment import find_or_build
from tools.host_server import ROOT
from tools.picture_files import GRAPH, GRAPH_BYTES, NODE_BYTES, SCALE, node_picture, small_png
from tools.web_interface import BOUNDS, Interface
from tools.web_session import web_session
from tools.workflow import load_workflow

MARGIN_PX = 12
FILL = 0.95  # of the view, by the graph
PLAIN = {"Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Graph.CanvasMenu": False}

ON_SCREEN = f"""margin => {{
  const [left, top, width, height] = ({BOUNDS})(), {{scale, offset}} = app.canvas.ds
  const canvas = app.canvas.canvas.getBoundingClientRect()
  return {{
    x: canvas.x + (left + offset[0]) * scale - margin,
    y: canvas.y + (top + offset[1]) * scale - margin,
    width: width * scale + 2 * margin,
    height: height * scale + 2 * margin,
  }}
}}"""
ALONE = """type => {
  app.rootGraph.clear()
  const node = LiteGraph.createNode(type)
  app.rootGraph.add(node)
  node.setSize([Math.max(node.size[0], 300), node.size[1]])  // the whole title
  for (const widget of node.widgets ?? []) widget.value ??= ''  // no file to choose
  app.canvas.deselectAll()
  app.canvas.ds.scale = 1
  app.canvas.centerOnNode(node)
}"""
BARE = """async () => {
  await app.extensionManager.command.execute('Workspace.ToggleFocusMode')
  app.canvas.background_image = null
}"""


def photograph(
    interface: Interface, path: Path, limit: int, workflow: Mapping[str, Any] | None = None
) -> None:
    """Write what the page shows of the graph, cut out, to a file."""
    interface.settle()
    box = interface.page.evaluate(ON_SCREEN, MARGIN_PX)
    path.write_bytes(small_png(interface.page.screenshot(clip=box), limit, workflow))
    answer(f"{path.relative_to(ROOT)}, {path.stat().st_size / 1000:.0f} KB")


def main() -> int:
    """The command line."""
    wanted = sys.argv[1:]
    environment = find_or_build()
    with web_session(environment, scale=SCALE) as (server, interface):
        server.client.post_json("/settings", PLAIN)
        interface.open()
        if not wanted:
            workflow = load_workflow(ROOT / "workflows" / "edit.json")
            interface.load(workflow, "edit")
            interface.run()
            interface.wait_for_pictures()
        interface.page.evaluate(BARE)
        if not wanted:
            interface.fit(FILL)
            photograph(interface, GRAPH, GRAPH_BYTES, workflow)
        for folder in sorted((ROOT / "web" / "docs").iterdir()):
            if not wanted or folder.name in wanted:
                interface.page.evaluate(ALONE, folder.name)
                photograph(interface, node_picture(folder.name), NODE_BYTES)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
