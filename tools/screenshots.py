"""Photograph the pack in the web interface, for the documentation.

    python tools/run.py --browser tools/screenshots.py                   # all
    python tools/run.py --browser tools/screenshots.py NMGSample sweep   # only these

Every workflow, after a run where it needs no files of the user's, becomes a picture of
docs/workflows.md that carries the workflow; every node alone becomes web/docs/<node>/node.png, the
picture of its help page.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the repository is the import root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.console import ToolError, answer, run_command
from tools.host_environment import find_or_build
from tools.host_server import ROOT
from tools.picture_files import (
    GRAPH_BYTES,
    NODE_BYTES,
    SCALE,
    node_picture,
    small_png,
    workflow_picture,
)
from tools.web_interface import BOUNDS, Interface
from tools.web_session import PREVIEWS, USERS_OWN, give_users_files, web_session
from tools.workflow import load_workflow

WORKFLOWS = ROOT / "workflows"
MARGIN_PX = 12
FILL = 0.95  # of the view, by the graph
PLAIN = {
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Graph.CanvasMenu": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # words are drawn however small
}

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
FOCUS = """async wanted => {
  // Nothing but the graph, on a plain ground; Run is a button around it.
  if (app.extensionManager.focusMode !== wanted)
    await app.extensionManager.command.execute('Workspace.ToggleFocusMode')
  app.canvas.background_image = null
}"""


def photograph(
    interface: Interface, path: Path, limit: int, workflow: Mapping[str, Any] | None = None
) -> None:
    """Write what the page shows of the graph, cut out, to a file."""
    interface.settle()
    box = interface.page.evaluate(ON_SCREEN, MARGIN_PX)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(small_png(interface.page.screenshot(clip=box), limit, workflow))
    answer(f"{path.relative_to(ROOT)}, {path.stat().st_size / 1000:.0f} KB")


def photograph_workflow(interface: Interface, name: str) -> None:
    """Open a workflow, run it if it can be, and write what it then looks like."""
    workflow = load_workflow(WORKFLOWS / f"{name}.json")
    interface.page.evaluate(FOCUS, False)
    interface.load(workflow, name)
    if USERS_OWN.keys() & {node["type"] for node in workflow["nodes"]}:
        interface.wait_for_pictures("LoadImage")
    else:
        interface.run()
        interface.wait_for_pictures()
    if wrong := interface.crowded():
        raise ToolError(f"{name}: nodes lie on or too near to each other: {'; '.join(wrong)}")
    interface.page.evaluate(FOCUS, True)
    interface.fit(FILL)
    photograph(interface, workflow_picture(name), GRAPH_BYTES, workflow)


def photograph_node(interface: Interface, node: str) -> None:
    """Write what a node alone looks like."""
    interface.page.evaluate(FOCUS, True)
    interface.page.evaluate(ALONE, node)
    photograph(interface, node_picture(node), NODE_BYTES)


def main() -> int:
    """The command line."""
    workflows = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    nodes = sorted(folder.name for folder in (ROOT / "web" / "docs").iterdir())
    wanted = sys.argv[1:] or workflows + nodes
    environment = find_or_build()
    with web_session(environment, arguments=PREVIEWS, scale=SCALE) as (server, interface):
        server.client.post_json("/settings", PLAIN)
        give_users_files(server.base)
        interface.open()
        for name in workflows:
            if name in wanted:
                photograph_workflow(interface, name)
        for name in nodes:
            if name in wanted:
                photograph_node(interface, name)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
