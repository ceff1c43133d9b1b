"""The shipped workflows against the live host: all are valid, those of the demo model run."""

import json
from types import SimpleNamespace

import pytest
from few_steps import shorten
from host_nodes import guidance
from PIL import Image

from tools.host_client import HostError
from tools.host_server import ROOT
from tools.thumbnails import shown_titles
from tools.workflow import find_node, load_workflow, to_api

pytestmark = pytest.mark.host_surface

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
DEMO = [path for path in WORKFLOWS if "NMGDemoModel" in path.read_text()]
OWN = [path for path in WORKFLOWS if path not in DEMO]
# The one that runs with the steps it ships with; what more of them cost teaches nothing.
AS_IT_SHIPS = "edit"
# Nodes of the host that the oldest ones lack.
LATER = {"ComfyMathExpression"}
# What takes the settings of a run, and the wires that it needs for one.
RUN = ("model", "trajectory", "positive", "negative")
WIRED = {
    "NMGSample": RUN,
    "NMGGuider": RUN,
    "NMGReconstructionCheck": ("model", "trajectory", "negative", "vae"),
}


def names(paths):
    return {"argvalues": paths, "ids": [path.stem for path in paths]}


@pytest.fixture(scope="module")
def prompt_of(server):
    info = server.client.object_info()

    def convert(path):
        workflow = load_workflow(path)
        missing = {name for name in LATER if f'"{name}"' in json.dumps(workflow)} - info.keys()
        if missing:
            pytest.skip(f"this ComfyUI has no node {', '.join(missing)}")
        return to_api(workflow, info)

    return convert


@pytest.mark.parametrize("path", **names(WORKFLOWS))
def test_every_workflow_lies_where_the_template_browser_finds_it_with_a_picture(path):
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.width >= 400


@pytest.mark.parametrize("path", **names(WORKFLOWS))
def test_every_widget_of_our_nodes_has_a_value_and_every_needed_input_a_wire(prompt_of, path):
    prompt = prompt_of(path)
    samples = [node for node in prompt.values() if node["class_type"] in WIRED]
    assert samples
    for node in samples:
        inputs = node["inputs"]
        assert {"text_scale", "noise_map_scale", "gradient_scale", "mode"} <= set(inputs)
        assert all(isinstance(inputs[name], list) for name in WIRED[node["class_type"]])


@pytest.mark.parametrize("path", **names(WORKFLOWS))
def test_no_workflow_ships_with_scales_that_want_advice(prompt_of, nodes, host, path):
    advice = host("nmg_pack.nodes.host.runs.advice")
    prompt = prompt_of(path)
    counts = [node["inputs"].get("steps") for node in prompt.values()]
    steps = min(count for count in counts if isinstance(count, int))
    trajectory = SimpleNamespace(schedule=SimpleNamespace(descent=lambda: range(steps)))
    scales = ("mode", "noise_map_scale", "gradient_scale", "text_scale")
    for node in prompt.values():
        given = node["inputs"]
        # The block's knobs are its own, and come by wires from nodes that compute.
        wired = any(isinstance(given.get(name), list) for name in scales)
        own = node["class_type"] in {"NMGSample", "NMGGuider"} and "guidance" not in given
        if own and not wired:
            method = guidance(nodes, **{name: given[name] for name in scales[:3]})
            mask, editor = given.get("mask"), given.get("editor")
            run = trajectory, method, given["text_scale"], mask, editor
            assert advice.about_scales(*run) == []


@pytest.mark.parametrize("path", **names(DEMO))
def test_a_demo_workflow_runs_with_nothing_downloaded(server, prompt_of, path):
    prompt = prompt_of(path)
    if path.stem != AS_IT_SHIPS:
        assert shorten(prompt)
    result = server.client.run(prompt)
    titles = {node["_meta"]["title"] for node in prompt.values()}
    shown = {"Source", *shown_titles(prompt)}
    assert shown <= titles
    assert len(shown) > 1
    for title in shown:
        assert result.images(find_node(prompt, title=title))


@pytest.mark.parametrize("path", **names(OWN))
def test_a_workflow_for_your_own_model_lacks_nothing_but_the_model(server, prompt_of, path):
    with pytest.raises(HostError) as refusal:
        server.client.run(prompt_of(path))
    refused = str(refusal.value)
    assert "ckpt_name" in refused
    assert "NMG" not in refused.replace("ComfyUI refused the workflow", "")
