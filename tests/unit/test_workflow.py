"""Workflow files as prompts for the API: what the web interface's own conversion does."""

import json

import pytest

from tools.workflow import WorkflowError, find_node, find_upstream, load_workflow, set_input, to_api

INFO = {
    "Sampler": {
        "display_name": "A Sampler",
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "name": [["euler", "heun"], {}],
                "scale": ["FLOAT", {"default": 7.5}],
            },
            "optional": {
                "forced": ["INT", {"forceInput": True}],
                "mode": ["COMBO", {"options": ["official", "fused"]}],
                "text": ["STRING", {"multiline": True, "default": "none"}],
            },
        },
    },
    "Loader": {"display_name": "Loader", "input": {"required": {"file": [["a", "b"], {}]}}},
    "Save": {"display_name": "Save", "input": {"required": {"model": ["MODEL", {}]}}},
    "Dynamic": {
        "display_name": "Dynamic",
        "input": {"required": {"choice": ["COMFY_DYNAMICCOMBO_V3", {}]}},
    },
}

SAMPLER = {"seed": 5, "name": "heun", "scale": 2.0, "mode": "fused", "text": "words"}


def node(node_id, kind, values=(), inputs=(), **more):
    slots = [{"name": name, "link": link} for name, link in inputs]
    return {"id": node_id, "type": kind, "widgets_values": list(values), "inputs": slots, **more}


def graph(*nodes, links=()):
    return {"nodes": list(nodes), "links": [list(link) for link in links]}


def loader_and(*nodes, links=((1, 1, 0, 2, 0, "MODEL"),)):
    return graph(node(1, "Loader", ["b"]), *nodes, links=links)


def sampler(values=(5, "randomize", "heun", 2.0, "fused", "words"), **more):
    return node(2, "Sampler", values, [("model", 1), ("forced", None)], **more)


def test_values_links_and_titles_are_taken_over():
    assert to_api(loader_and(sampler(title="Mine")), INFO) == {
        "1": {"class_type": "Loader", "inputs": {"file": "b"}, "_meta": {"title": "Loader"}},
        "2": {
            "class_type": "Sampler",
            "inputs": {**SAMPLER, "model": ["1", 0]},
            "_meta": {"title": "Mine"},
        },
    }


def test_seed_without_its_control_value_shifts_nothing():
    values = (5, "heun", 2.0, "fused", "words")
    inputs = to_api(loader_and(sampler(values)), INFO)["2"]["inputs"]
    assert inputs == {**SAMPLER, "model": ["1", 0]}


def test_only_a_seed_has_a_control_value():
    values = (5, "fixed", "heun", 2.0, "fused", "fixed")
    assert to_api(loader_and(sampler(values)), INFO)["2"]["inputs"]["text"] == "fixed"
    values = (5, "fixed", "heun", "fixed", "fused", "words")
    assert to_api(loader_and(sampler(values)), INFO)["2"]["inputs"]["mode"] == "fused"


def test_widget_wired_to_a_muted_node_is_left_away():
    wired = node(2, "Sampler", sampler()["widgets_values"], [("scale", 1)])
    workflow = loader_and(wired)
    workflow["nodes"][0]["mode"] = 2
    assert "scale" not in to_api(workflow, INFO)["2"]["inputs"]


def test_missing_values_become_the_defaults():
    inputs = to_api(loader_and(sampler((5,))), INFO)["2"]["inputs"]
    expected = {"seed": 5, "name": "euler", "scale": 7.5, "mode": "official", "text": "none"}
    assert inputs == {**expected, "model": ["1", 0]}


def test_values_by_name_are_understood():
    named = {**node(2, "Sampler", inputs=[("model", 1)]), "widgets_values": SAMPLER}
    assert to_api(loader_and(named), INFO)["2"]["inputs"] == {**SAMPLER, "model": ["1", 0]}


def test_links_as_objects_are_understood():
    workflow = loader_and(sampler(), links=())
    workflow["links"] = [{"id": 1, "origin_id": 1, "origin_slot": 3, "target_id": 2}]
    assert to_api(workflow, INFO)["2"]["inputs"]["model"] == ["1", 3]


def test_wired_widget_takes_the_link_and_keeps_the_others_in_place():
    wired = node(2, "Sampler", sampler()["widgets_values"], [("model", 1), ("scale", 2)])
    links = ((1, 1, 0, 2, 0, "MODEL"), (2, 1, 1, 2, 1, "FLOAT"))
    inputs = to_api(loader_and(wired, links=links), INFO)["2"]["inputs"]
    assert inputs == {**SAMPLER, "model": ["1", 0], "scale": ["1", 1]}


def test_interface_only_nodes_are_resolved():
    workflow = graph(
        node(1, "Loader", ["b"]),
        node(3, "Reroute", inputs=[("", 1)]),
        node(4, "PrimitiveNode", [11, "fixed"]),
        node(5, "Note", ["text"]),
        node(6, "MarkdownNote", ["text"]),
        node(2, "Sampler", sampler()["widgets_values"], [("model", 2), ("seed", 3)]),
        links=((1, 1, 0, 3, 0, "*"), (2, 3, 0, 2, 0, "*"), (3, 4, 0, 2, 1, "INT")),
    )
    prompt = to_api(workflow, INFO)
    assert list(prompt) == ["1", "2"]
    assert prompt["2"]["inputs"] == {**SAMPLER, "model": ["1", 0], "seed": 11}


def test_muted_node_and_links_from_it_are_left_away():
    workflow = loader_and(sampler())
    workflow["nodes"][0]["mode"] = 2
    prompt = to_api(workflow, INFO)
    assert list(prompt) == ["2"]
    assert prompt["2"]["inputs"] == SAMPLER


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        (graph(node(1, "Loader", ["a"], mode=4)), r"node 1 \(Loader\) is bypassed"),
        (graph(node(7, "Nobody")), r"no node 'Nobody' \(node 7\)"),
        (graph(node(7, "Dynamic")), r"node 7 \(Dynamic\): input 'choice'"),
        (graph(sampler()), "link 1 is used by a node but not among the links"),
    ],
)
def test_what_is_not_covered_is_refused(workflow, said):
    with pytest.raises(WorkflowError, match=said):
        to_api(workflow, INFO)


def chain():
    return to_api(
        graph(
            node(1, "Loader", ["a"]),
            node(2, "Sampler", inputs=[("model", 1)], title="first"),
            node(3, "Sampler", inputs=[("model", 2)], title="second"),
            node(4, "Save", inputs=[("model", 3)]),
            links=((1, 1, 0, 2, 0, ""), (2, 2, 0, 3, 0, ""), (3, 3, 0, 4, 0, "")),
        ),
        INFO,
    )


def test_nodes_are_found_by_title_and_type():
    prompt = chain()
    assert find_node(prompt, title="second") == "3"
    assert find_node(prompt, class_type="Loader") == "1"
    with pytest.raises(WorkflowError, match="2 nodes are 'Sampler', expected one.*Save 'Save'"):
        find_node(prompt, class_type="Sampler")
    with pytest.raises(WorkflowError, match="0 nodes are 'third'"):
        find_node(prompt, title="third")


def test_nearest_node_upstream_is_found():
    prompt = chain()
    assert find_upstream(prompt, "4", "Sampler") == "3"
    assert find_upstream(prompt, "3", "Sampler") == "2"
    assert find_upstream(prompt, "4", "Loader") == "1"
    with pytest.raises(WorkflowError, match="no Save node leads to 'second'"):
        find_upstream(prompt, "3", "Save")


def test_input_is_set_where_there_is_one():
    prompt = chain()
    set_input(prompt, "2", "text", "new")
    assert prompt["2"]["inputs"]["text"] == "new"
    with pytest.raises(WorkflowError, match="Sampler 'first' has no input 'colour'"):
        set_input(prompt, "2", "colour", "red")
    with pytest.raises(WorkflowError, match="input 'model' of Sampler 'first' is wired"):
        set_input(prompt, "2", "model", "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "cannot be read"), ("{", "is no JSON"), (json.dumps({"1": {}}), "is no workflow")],
)
def test_unusable_file_is_said(tmp_path, text, said):
    path = tmp_path / "flow.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(WorkflowError, match=said):
        load_workflow(path)
