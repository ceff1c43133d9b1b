"""Blocks of a workflow (the interface's subgraphs), replaced by the nodes that they stand for.

As the interface does when it queues: the node 7 in the block 4 becomes the node `4:7`. Where a wire
crosses the border of a block a Reroute stands, or a PrimitiveNode with the block's own value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from tools.console import ToolError

Node = dict[str, Any]
Origin = tuple[str, int]
INPUTS, OUTPUTS = -10, -20  # the nodes of a block's border, as files number them


def expand(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes and links of a workflow in interface format without blocks, under string ids.

    Raises:
        ToolError: a block was saved by an older interface, which listed its values in another way.
    """
    defined = (workflow.get("definitions") or {}).get("subgraphs", [])
    blocks = {block["id"]: block for block in defined}
    nodes, origins = _numbered(workflow, "")
    while found := [node for node in nodes if node["type"] in blocks]:
        for instance in found:
            nodes.remove(instance)
            inner, starts = _inside(instance, blocks[instance["type"]])
            nodes += inner
            origins = {link: _out_of(instance, start) for link, start in origins.items()} | starts
    links = [[link, node, slot] for link, (node, slot) in origins.items()]
    return {"nodes": nodes, "links": links}


def origin_of(link: list[Any] | Mapping[str, Any]) -> tuple[Any, tuple[Any, int]]:
    """Link id and (node, output) that it starts from; both notations that files use."""
    if isinstance(link, Mapping):
        return link["id"], (link["origin_id"], link["origin_slot"])
    return link[0], (link[1], link[2])


def _numbered(graph: Mapping[str, Any], place: str) -> tuple[list[Node], dict[str, Origin]]:
    """Copies of the nodes, and where each link starts, all ids after `place`."""
    origins = {
        f"{place}{link}": (f"{place}{node}", slot)
        for link, (node, slot) in map(origin_of, graph["links"])
    }
    nodes = []
    for node in graph["nodes"]:
        slots = [
            slot if slot.get("link") is None else {**slot, "link": f"{place}{slot['link']}"}
            for slot in node.get("inputs") or []
        ]
        nodes.append({**node, "id": f"{place}{node['id']}", "inputs": slots})
    return nodes, origins


def _inside(instance: Node, block: Mapping[str, Any]) -> tuple[list[Node], dict[str, Origin]]:
    """What stands in the place of one block: its nodes, its border, and the links between them."""
    if instance.get("properties", {}).get("proxyWidgets") and instance.get("widgets_values"):
        raise ToolError(
            f"block {instance['id']} ({block['name']}) lists its values as older versions of the "
            "interface did. Open the workflow in ComfyUI and save it again."
        )
    place = f"{instance['id']}:"
    nodes, origins = _numbered(block, place)
    entry = f"{place}{INPUTS}"
    origins = {
        link: (f"{node}.{slot}", 0) if node == entry else (node, slot)
        for link, (node, slot) in origins.items()
    }
    ports = list(_ports(instance, entry))
    unset = {f"{entry}.{slot}" for slot in range(len(block["inputs"]))} - {n["id"] for n in ports}
    for slot in (slot for node in nodes for slot in node["inputs"]):
        # The widget inside then keeps its own value.
        if origins.get(slot.get("link"), ("", 0))[0] in unset:
            slot["link"] = None
    for number, output in enumerate(block["outputs"]):
        link = next((f"{place}{link}" for link in output["linkIds"]), None)
        ports.append(_reroute(f"{place}{OUTPUTS}.{number}", link))
    mode = instance.get("mode", 0)  # of a muted or bypassed block, everything in it
    return [{**node, "mode": mode or node.get("mode", 0)} for node in nodes + ports], origins


def _ports(instance: Node, entry: str) -> Iterator[Node]:
    """One node for each input of the block that has a wire or a value."""
    values = iter(instance.get("widgets_values") or [])
    for number, slot in enumerate(instance["inputs"]):
        value = list(islice(values, 1)) if slot.get("widget") else []
        if slot.get("link") is not None:
            yield _reroute(f"{entry}.{number}", slot["link"])
        elif value:
            yield {
                "id": f"{entry}.{number}",
                "type": "PrimitiveNode",
                "inputs": [],
                "widgets_values": value,
            }


def _reroute(node_id: str, link: str | None) -> Node:
    return {"id": node_id, "type": "Reroute", "inputs": [{"link": link}]}


def _out_of(instance: Node, start: Origin) -> Origin:
    """A link's start, at the border where it starts from the block."""
    node, slot = start
    return (f"{node}:{OUTPUTS}.{slot}", 0) if node == instance["id"] else start
