"""ComfyUI's web interface as a user has it: what can be opened, pressed and read there."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, WebSocket, expect

from tools.host_server import PACK_NAME

RUN_SECONDS = 240  # a shared machine with two cores; alone it takes a few
OURS = ("NMG", PACK_NAME)
# The host asks its makers' server about every node that is selected, and then forbids it.
HOSTS_OWN = "https://api.comfy.org/"
GAP = 10  # between nodes, with their titles and pictures
FREE = 0.75  # of the canvas, for the graph
NO_NODE = "qqqq"  # finds none
LEGIBLE = 0.8  # of a node's full size
FINISHED = ("execution_success", "execution_error", "execution_interrupted")

# The title names a workflow once the one that the interface begins with is there; what is opened
# before would be replaced by it.
READY = "() => window.app?.vueAppReady && document.title !== 'ComfyUI'"
BROKEN = """() => {
  const graph = app.rootGraph, wrong = []
  for (const node of graph.nodes) {
    if (!LiteGraph.registered_node_types[node.type]) wrong.push(`no node ${node.type}`)
    if (node.has_errors) wrong.push(`${node.title} has errors`)
    for (const input of node.inputs ?? []) {
      const link = input.link == null ? null : graph.links.get(input.link)
      const needed = node.constructor.nodeData?.input?.required?.[input.name] && !input.widget
      if (!link) {
        if (needed) wrong.push(`${node.title}: ${input.name} has no wire`)
        continue
      }
      const output = graph.getNodeById(link.origin_id)?.outputs[link.origin_slot]
      if (!output || !LiteGraph.isValidConnection(output.type, input.type))
        wrong.push(`${node.title}: ${input.name} takes ${input.type}, got ${output?.type}`)
    }
  }
  return wrong
}"""
SHOWN = """types => {
  const nodes = app.rootGraph.nodes.filter(node => types.includes(node.type))
  const shows = node => node.imgs?.length && [...node.imgs].every(img => img.naturalWidth > 0)
  return nodes.length && nodes.every(shows)
}"""
BOUNDS = """() => {
  const boxes = [...app.rootGraph.nodes, ...app.rootGraph.groups].map(each => each.boundingRect)
  const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]))
  const right = Math.max(...boxes.map(box => box[0] + box[2]))
  const bottom = Math.max(...boxes.map(box => box[1] + box[3]))
  return [left, top, right - left, bottom - top]
}"""
CROWDED = """gap => {
  const nodes = app.rootGraph.nodes, wrong = []
  const apart = (a, b, axis) => a[axis] >= b[axis] + b[axis + 2] + gap
  nodes.forEach((one, index) => nodes.slice(index + 1).forEach(other => {
    const [a, b] = [one.boundingRect, other.boundingRect]
    if (![0, 1].some(axis => apart(a, b, axis) || apart(b, a, axis)))
      wrong.push(`${one.title} | ${other.title}`)
  }))
  return wrong
}"""
FIT = f"""zoom => {{
  app.canvas.ds.fitToBounds(({BOUNDS})(), {{zoom}})
  app.canvas.setDirty(true, true)
}}"""
CENTRE = """([type, scale]) => {
  const node = app.rootGraph.nodes.find(node => node.type === type)
  app.canvas.ds.scale = scale
  app.canvas.centerOnNode(node)
  app.canvas.selectNode(node)
}"""
TWO_FRAMES = "() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))"
WATCH = """() => {
  window.watched = {titles: [], progress: {}, previews: []}
  window.watching = setInterval(() => {
    const {titles, progress, previews} = window.watched
    if (titles.at(-1) !== document.title) titles.push(document.title)
    for (const node of app.rootGraph.nodes) {
      const seen = (progress[node.id] ??= [])
      if (node.progress && seen.at(-1) !== node.progress) seen.push(node.progress)
      const shown = node.imgs?.[0]?.src ?? ''
      if (shown.startsWith('blob:') && !previews.includes(node.id)) previews.push(node.id)
    }
  }, 20)
}"""
DROP = """async ([name, kind, data]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0))
  const transfer = new DataTransfer()
  transfer.items.add(new File([bytes], name, {type: kind}))
  const canvas = document.querySelector('#graph-canvas')
  for (const event of ['dragenter', 'dragover', 'drop'])
    canvas.dispatchEvent(
      new DragEvent(event, {dataTransfer: transfer, bubbles: true, cancelable: true}))
}"""


@dataclass
class Run:
    """How a press of the Run button ended.

    `watched` is what the page showed meanwhile: its `titles`, the bar's `progress` by node id, and
    the ids of the nodes that had `previews`.
    """

    events: list[tuple[str, dict[str, Any]]]
    watched: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> str:
        return next(kind for kind, _ in self.events if kind in FINISHED)

    def progress(self, node_id: int) -> list[float]:
        """How far the host said that a node was, 0..1, in order."""
        found = [data for kind, data in self.events if kind == "progress"]
        return [data["value"] / data["max"] for data in found if data.get("node") == str(node_id)]

    def pictures(self) -> dict[str, list[dict[str, str]]]:
        """The pictures that each node saved, by node id, as `HostClient.download` takes them."""
        return {
            data["node"]: data["output"]["images"]
            for kind, data in self.events
            if kind == "executed" and (data["output"] or {}).get("images")
        }


class Interface:
    """One browser page that shows one server's interface."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._socket: WebSocket | None = None
        self._complaints: list[str] = []
        page.on("websocket", self._listen)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self._complaints.append(f"uncaught: {error}"))

    def open(self) -> None:
        """Load the page, as at a first visit or anew."""
        self.page.goto(self._url)
        self.page.wait_for_function(READY)

    # What is there

    def broken(self) -> list[str]:
        """Missing nodes, nodes in error, needed inputs without a wire, wires that do not fit."""
        return self.page.evaluate(BROKEN)

    def crowded(self) -> list[str]:
        """Pairs of nodes, by their titles, that lie on each other or closer than `GAP`."""
        return self.page.evaluate(CROWDED, GAP)

    def wait_for_pictures(self, *types: str) -> None:
        """Until every node of these types, or else that is there for it, shows pictures; there is
        one at least."""
        self.page.wait_for_function(SHOWN, arg=types or ("SaveImage", "PreviewImage"))

    def node_id(self, node_type: str) -> int:
        """The id of the first node of a type."""
        find = "type => app.rootGraph.nodes.find(node => node.type === type).id"
        return self.page.evaluate(find, node_type)

    def serialized(self) -> dict[str, Any]:
        """The graph as the interface writes it into files and pictures."""
        return self.page.evaluate("() => app.rootGraph.serialize()")

    def prompt(self) -> dict[str, Any]:
        """The graph as the Run button sends it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def complaints(self) -> list[str]:
        """Uncaught errors, and errors in the console that name the pack; then forgotten."""
        found, self._complaints = self._complaints, []
        return found

    # What can be done

    def load(self, workflow: Mapping[str, Any], name: str) -> None:
        """Open a workflow as if it came from a file, all of it in view."""
        self.page.evaluate("([w, n]) => app.loadGraphData(w, true, true, n)", [workflow, name])
        self.wait_for_nodes(workflow)
        if workflow["nodes"]:
            self.fit()

    def wait_for_nodes(self, workflow: Mapping[str, Any]) -> None:
        """Until the graph has as many nodes as this workflow."""
        count = len(workflow["nodes"])
        self.page.wait_for_function("n => app.rootGraph.nodes.length === n", arg=count)

    def open_template(self, name: str) -> None:
        """Choose one of the pack's workflows in the template browser."""
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.wait_for_selector("[data-testid=template-workflows-content]")
        self.page.get_by_text(PACK_NAME).first.click()
        self.page.get_by_test_id(f"template-workflow-{name}").click()

    def drop(self, name: str, kind: str, data: bytes) -> None:
        """Drag a file from the desktop onto the graph."""
        self.page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])

    def set_widgets(self, widget: str, value: Any) -> None:
        """Set a widget on every node that has it, also on those inside blocks."""
        self.page.evaluate(
            """([name, value]) => {
              const inside = node => [node, ...(node.subgraph?.nodes ?? []).flatMap(inside)]
              app.rootGraph.nodes
                .flatMap(inside)
                .flatMap(node => node.widgets ?? [])
                .filter(widget => widget.name === name)
                .forEach(widget => { widget.value = value })
            }""",
            [widget, value],
        )

    def fit(self, zoom: float = FREE) -> None:
        """Show the whole graph: what is out of sight is not drawn, and loads no picture.

        Args:
            zoom: the part of the width or height of the canvas that it may take.
        """
        self.page.evaluate(FIT, zoom)
        self.settle()

    def settle(self) -> None:
        """Until what is known by now has been drawn."""
        self.page.evaluate(TWO_FRAMES)

    def run(self) -> Run:
        """Press Run and wait for the end.

        Raises:
            TimeoutError: Playwright's; it did not end in `RUN_SECONDS`.
        """
        if self._socket is None:
            raise RuntimeError("the interface is not open")
        self._events.clear()
        self.page.evaluate(WATCH)
        with self._socket.expect_event("framereceived", _is_end, timeout=RUN_SECONDS * 1000):
            self.page.get_by_test_id("queue-button").click()
        self.settle()
        watched = self.page.evaluate(
            "() => { clearInterval(window.watching); return window.watched }"
        )
        return Run(list(self._events), watched)

    def help_of(self, node_type: str) -> Locator:
        """The help panel, opened for the first node of a type."""
        # Its buttons float above it: near the upper edge they would lie under the tabs.
        self.page.evaluate(CENTRE, [node_type, LEGIBLE])
        self.page.get_by_test_id("info-button").click()
        panel = self.page.locator(".node-help-content").first
        panel.wait_for()
        return panel

    def found_by(self, words: str) -> list[str]:
        """The nodes that the search box offers for these words, best first."""
        self.page.evaluate(
            "() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
        )
        # What is typed before the box is there would be shortcuts.
        box = self.page.get_by_role("combobox", name="Add a node...")
        results = self.page.get_by_test_id("result-item")
        box.fill(NO_NODE)
        expect(results).to_have_count(0)
        box.fill(words)
        results.first.wait_for()
        found = results.all_inner_texts()
        box.press("Escape")
        box.wait_for(state="hidden")
        return found

    def library_finds(self, name: str) -> bool:
        """Whether the node library in the side bar offers a node or block of this name."""
        tab = self.page.get_by_role("button", name="Node Library")
        tab.click()
        self.page.get_by_placeholder("Search...").fill(name)
        # Before it has searched it shows folders alone.
        leaves = self.page.get_by_role("treeitem").filter(has_text=name.split()[0])
        leaves.first.wait_for()
        found = name in leaves.all_inner_texts()
        tab.click()
        return found

    # What comes in

    def _listen(self, socket: WebSocket) -> None:
        def hear(payload: str | bytes) -> None:
            if isinstance(payload, str):
                message = json.loads(payload)
                self._events.append((message["type"], message.get("data") or {}))

        socket.on("framereceived", hear)
        self._socket = socket

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            text = f"{message.text} ({message.location.get('url', '')})"
            if HOSTS_OWN not in text and any(name in text for name in OURS):
                self._complaints.append(text)


def _is_end(payload: str | bytes) -> bool:
    return isinstance(payload, str) and json.loads(payload)["type"] in FINISHED
