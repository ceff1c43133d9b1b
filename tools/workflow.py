"""Workflow files (ComfyUI's interface format) as prompts for its API, and changes to them.

The web interface does this conversion in the browser; a command has to do it itself. What a node's
widgets mean is read from the running host (`/object_info`), so it works for every node the host
knows. Not covered, and refused: bypassed nodes, widgets that add other widgets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.console import ToolError
from tools.subgraphs import expand, origin_of

Prompt = dict[str, dict[str, Any]]

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
DYNAMIC_TYPES = ("COMFY_DYNAMICCOMBO_V3", "COMFY_DYNAMICSLOT_V3")
SEED_NAMES = ("seed", "noise_seed")
SEED_CONTROLS = ("fixed", "increment", "decrement", "randomize")
COMMENTS = ("Note", "MarkdownNote")
VIRTUAL = (*COMMENTS, "Reroute", "PrimitiveNode")  # known to the interface only
MUTED, BYPASSED = 2, 4


class WorkflowError(ToolError):
    """A workflow cannot be converted, or has no such node or input."""


def load_workflow(path: Path) -> dict[str, Any]:
    """The workflow in a file.

    Raises:
        WorkflowError: there is no such file, or it holds no workflow in interface format.
    """
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError(f"workflow {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WorkflowError(f"workflow {path} is no JSON: {error}") from error
    if not isinstance(workflow, dict) or "nodes" not in workflow or "links" not in workflow:
        raise WorkflowError(f"{path} is no workflow as the interface saves it: no nodes and links")
    return workflow


def to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """The prompt that the web interface would queue for this workflow.

    Args:
        workflow: interface format, as `load_workflow` gives it.
        object_info: the host's answer to /object_info.

    Raises:
        WorkflowError: a node is unknown to the host, bypassed, or uses what is not covered.
    """
    return _Conversion(workflow, object_info).prompt()


def find_node(prompt: Prompt, *, title: str | None = None, class_type: str | None = None) -> str:
    """The id of the one node with this title, this type, or both.

    Raises:
        WorkflowError: no node fits, or more than one does.
    """
    found = [
        node_id
        for node_id, node in prompt.items()
        if title in (None, node["_meta"]["title"]) and class_type in (None, node["class_type"])
    ]
    if len(found) != 1:
        wanted = " ".join(repr(word) for word in (class_type, title) if word)
        there = ", ".join(f"{n['class_type']} '{n['_meta']['title']}'" for n in prompt.values())
        raise WorkflowError(f"{len(found)} nodes are {wanted}, expected one. There are: {there}")
    return found[0]


def find_upstream(prompt: Prompt, node_id: str, class_type: str) -> str:
    """The id of the nearest node of this type that `node_id` gets its inputs from.

    Raises:
        WorkflowError: there is none.
    """
    level, seen = [node_id], {node_id}
    while level:
        links = [value for each in level for value in prompt[each]["inputs"].values()]
        level = list(dict.fromkeys(link[0] for link in links if isinstance(link, list)))
        level = [each for each in level if each not in seen]
        seen.update(level)
        for each in level:
            if prompt[each]["class_type"] == class_type:
                return each
    raise WorkflowError(f"no {class_type} node leads to '{prompt[node_id]['_meta']['title']}'")


def set_input(prompt: Prompt, node_id: str, name: str, value: object) -> None:
    """Give the input `name` of a node another value.

    Raises:
        WorkflowError: the node has no such input, or it comes from another node.
    """
    node = prompt[node_id]
    who = f"{node['class_type']} '{node['_meta']['title']}'"
    if name not in node["inputs"]:
        raise WorkflowError(f"{who} has no input '{name}', only {', '.join(node['inputs'])}")
    if isinstance(node["inputs"][name], list):
        raise WorkflowError(f"input '{name}' of {who} is wired to another node")
    node["inputs"][name] = value


class _Conversion:
    def __init__(self, workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> None:
        self._info = object_info
        flat = expand(workflow)
        self._nodes = {node["id"]: node for node in flat["nodes"]}
        self._origins = dict(origin_of(link) for link in flat["links"])

    def prompt(self) -> Prompt:
        return {
            node_id: self._convert(node)
            for node_id, node in self._nodes.items()
            if node["type"] not in VIRTUAL and node.get("mode", 0) != MUTED
        }

    def _convert(self, node: Mapping[str, Any]) -> dict[str, Any]:
        self._refuse_bypassed(node)
        info = self._info.get(node["type"])
        if info is None:
            raise WorkflowError(
                f"this ComfyUI has no node '{node['type']}' (node {node['id']}). See the server's "
                "log for a pack that failed to load."
            )
        inputs = dict(_widget_values(node, info))
        for slot in node.get("inputs") or []:
            if slot.get("link") is not None:
                inputs.pop(slot["name"], None)
                source = self._source(slot["link"])
                if source is not None:
                    inputs[slot["name"]] = source
        title = node.get("title") or info.get("display_name") or node["type"]
        return {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}

    def _source(self, link: str) -> object | None:
        """What a link brings: [node id, output], a primitive's value, or None from a muted node."""
        if link not in self._origins:
            raise WorkflowError(f"link {link} is used by a node but not among the links")
        node_id, slot = self._origins[link]
        node = self._nodes[node_id]
        if node.get("mode", 0) == MUTED:
            return None
        self._refuse_bypassed(node)
        if node["type"] == "PrimitiveNode":
            return node["widgets_values"][0]
        if node["type"] == "Reroute":
            upstream = node["inputs"][0].get("link")
            return None if upstream is None else self._source(upstream)
        return [node_id, slot]

    @staticmethod
    def _refuse_bypassed(node: Mapping[str, Any]) -> None:
        if node.get("mode", 0) == BYPASSED:
            raise WorkflowError(
                f"node {node['id']} ({node['type']}) is bypassed, which only the interface can "
                "resolve. Enable it or delete it."
            )


def _widget_values(
    node: Mapping[str, Any], info: Mapping[str, Any]
) -> Iterator[tuple[str, object]]:
    """Name and value of each widget; the node's default for those that the file does not have."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, Mapping):
        for name, kind, options in _widgets(node, info):
            yield name, saved[name] if name in saved else _default(kind, options)
        return
    values = list(saved)
    for name, kind, options in _widgets(node, info):
        yield name, values.pop(0) if values else _default(kind, options)
        controlled = name in SEED_NAMES or options.get("control_after_generate")
        # What to do with the seed after each run is a widget of the interface alone.
        if controlled and values and values[0] in SEED_CONTROLS:
            values.pop(0)


def _widgets(
    node: Mapping[str, Any], info: Mapping[str, Any]
) -> Iterator[tuple[str, object, Mapping[str, Any]]]:
    """Name, type and options of the node's widgets, in the order of their saved values."""
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            kind = spec[0] if isinstance(spec[0], list) else options.get("widgetType", spec[0])
            if kind in DYNAMIC_TYPES:
                raise WorkflowError(
                    f"node {node['id']} ({node['type']}): input '{name}' adds inputs of its own, "
                    "which is not covered"
                )
            if (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput"):
                yield name, kind, options


def _default(kind: object, options: Mapping[str, Any]) -> object:
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(str(kind), "")
