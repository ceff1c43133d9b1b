"""Blocks of a workflow as the nodes that they stand for: what the interface does when it queues."""

import json
from pathlib import Path

import pytest

from tools.console import ToolError
from tools.workflow import to_api

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
INFO = {
    "Loader": {"input": {"required": {"file": ["STRING", {}]}}},
    "Edit": {
        "input": {
            "required": {"model": ["MODEL", {}], "scale": ["FLOAT", {}], "steps": ["INT", {}]}
        }
    },
    "Math": {"input": {"required": {"values": ["COMFY_AUTOGROW_V3", {}], "text": ["STRING", {}]}}},
    "Save": {"input": {"required": {"model": ["MODEL", {}]}}},
}


def node(node_id, kind, values=(), inputs=(), **more):
    slots = [{"name": name, "link": link} for name, link in inputs]
    return {"id": node_id, "type": kind, "widgets_values": list(values), "inputs": slots, **more}


def wire(link, origin, slot, target, entry=0):
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return dict(zip(names, (link, origin, slot, target, entry), strict=True))


def block(name, nodes, links, inputs=(), outputs=((),)):
    """A definition; `inputs` are names, `outputs` the ids of the links that leave."""
    return {
        "id": name,
        "name": name,
        "nodes": list(nodes),
        "links": list(links),
        "inputs": [{"name": entry} for entry in inputs],
        "outputs": [{"linkIds": list(links)} for links in outputs],
    }


def an_edit():
    """A block of one node: a model comes in by a wire, two numbers by values, a model goes out."""
    inner = node(7, "Edit", [2.0, 10], [("model", 1), ("scale", 2), ("steps", 4)])
    links = [wire(1, -10, 0, 7), wire(2, -10, 1, 7, 1), wire(4, -10, 2, 7, 2), wire(3, 7, 0, -20)]
    return block("edit", [inner], links, ("model", "scale", "steps"), [[3]])


def instance_of(node_id, kind, values=(), link=None, **more):
    made = node(node_id, kind, values, [("model", link), ("scale", None), ("steps", None)], **more)
    for slot in made["inputs"][1:]:
        slot["widget"] = {"name": slot["name"]}
    return made


def workflow(values=(5.0, 30), definition=None, **more):
    """A loader, the block and an output."""
    instance = instance_of(4, "edit", values, 1, **more)
    return {
        "nodes": [node(1, "Loader", ["b"]), instance, node(5, "Save", inputs=[("model", 2)])],
        "links": [[1, 1, 0, 4, 0, "MODEL"], [2, 4, 0, 5, 0, "MODEL"]],
        "definitions": {"subgraphs": [definition or an_edit()]},
    }


def inputs_of(prompt):
    return {node_id: node["inputs"] for node_id, node in prompt.items()}


def test_a_block_becomes_its_nodes():
    assert inputs_of(to_api(workflow(), INFO)) == {
        "1": {"file": "b"},
        "5": {"model": ["4:7", 0]},
        "4:7": {"model": ["1", 0], "scale": 5.0, "steps": 30},
    }


def test_a_block_without_a_value_leaves_that_of_its_node():
    inputs = to_api(workflow(values=()), INFO)["4:7"]["inputs"]
    assert inputs == {"model": ["1", 0], "scale": 2.0, "steps": 10}


def test_a_wire_to_a_block_takes_the_place_of_its_value():
    wired = workflow()
    wired["nodes"].append(node(6, "Loader", ["scale"]))
    wired["links"].append([3, 6, 0, 4, 1, "FLOAT"])
    wired["nodes"][1]["inputs"][1]["link"] = 3
    inputs = to_api(wired, INFO)["4:7"]["inputs"]
    assert inputs == {"model": ["1", 0], "scale": ["6", 0], "steps": 30}


def test_two_of_a_block_do_not_share_anything():
    twice = workflow()
    second = {**twice["nodes"][1], "id": 8, "widgets_values": [9.0, 1]}
    twice["nodes"].append(second)
    prompt = to_api(twice, INFO)
    assert prompt["4:7"]["inputs"]["scale"] == 5.0
    assert prompt["8:7"]["inputs"]["scale"] == 9.0


def test_a_block_in_a_block_is_opened_too():
    inner = instance_of(3, "edit", [4.0, 20], 1)
    links = [wire(1, -10, 0, 3), wire(2, 3, 0, -20)]
    outer = block("outer", [inner], links, ("model",), [[2]])
    nested = workflow()
    nested["definitions"]["subgraphs"].append(outer)
    nested["nodes"][1] = node(4, "outer", [], [("model", 1)])
    prompt = to_api(nested, INFO)
    assert prompt["4:3:7"]["inputs"] == {"model": ["1", 0], "scale": 4.0, "steps": 20}
    assert prompt["5"]["inputs"]["model"] == ["4:3:7", 0]


def test_what_only_passes_through_a_block_goes_on_to_where_it_came_from():
    through = block("edit", [], [wire(1, -10, 0, -20)], ("model",), [[1]])
    prompt = to_api(workflow(definition=through), INFO)
    assert inputs_of(prompt) == {"1": {"file": "b"}, "5": {"model": ["1", 0]}}


def test_a_muted_block_is_left_away_with_all_in_it():
    assert inputs_of(to_api(workflow(mode=2), INFO)) == {"1": {"file": "b"}, "5": {}}


def test_a_bypassed_block_is_refused():
    with pytest.raises(ToolError, match="is bypassed"):
        to_api(workflow(mode=4), INFO)


def test_values_in_the_order_of_older_interfaces_are_refused():
    old = workflow(properties={"proxyWidgets": [["-1", "scale"]]})
    with pytest.raises(ToolError, match=r"block 4 \(edit\) lists its values as older versions"):
        to_api(old, INFO)


def test_inputs_that_grow_are_taken_by_their_full_names():
    grows = node(2, "Math", ["a + 1"], [("values.a", 1)])
    flat = {"nodes": [node(1, "Loader", ["b"]), grows], "links": [[1, 1, 0, 2, 0, "FLOAT"]]}
    assert to_api(flat, INFO)["2"]["inputs"] == {"text": "a + 1", "values.a": ["1", 0]}


def test_a_workflow_has_the_blocks_that_the_node_search_offers():
    """One wording of each: a formula that is changed in one file is changed in the other."""
    offered = {}
    for path in BLUEPRINTS:
        for definition in json.loads(path.read_text("utf-8"))["definitions"]["subgraphs"]:
            offered[definition["id"]] = definition
    used = [
        definition
        for path in WORKFLOWS
        for definition in json.loads(path.read_text("utf-8"))
        .get("definitions", {})
        .get("subgraphs", [])
    ]
    assert used
    for definition in used:
        assert definition == offered[definition["id"]]
