"""The block *Edit a real picture*, as the host serves it and as it runs."""

import json

import pytest
from PIL import Image

from tools.host_server import PACK_NAME, ROOT
from tools.workflow import find_node, load_workflow, set_input, to_api

pytestmark = pytest.mark.host_surface

NAME = "Edit a real picture"
BLUEPRINT = ROOT / "subgraphs" / f"{NAME}.json"
KNOB, TEXT_SCALE, NOISE_MAP_SCALE = (
    "preserve 0 <-> 1 change",
    "text_scale from the knob a",
    "noise_map_scale from the knob a",
)
STEPS = 4
NO_MATHS = "this ComfyUI has no Math Expression node, which the block needs"


@pytest.fixture(scope="module")
def info(server):
    info = server.client.object_info()
    if "ComfyMathExpression" not in info:
        pytest.skip(NO_MATHS)
    return info


def prompt_of(info, change=0.5):
    """The workflow of the block with fewer steps and another setting of its knob."""
    prompt = to_api(load_workflow(ROOT / "workflows" / "edit-block.json"), info)
    set_input(prompt, find_node(prompt, class_type="NMGInvert"), "steps", STEPS)
    set_input(prompt, find_node(prompt, title=KNOB), "value", change)
    return prompt


def edit_of(server, prompt, tmp_path):
    image = server.client.run(prompt).images(find_node(prompt, title="Edit"))[0]
    file = tmp_path / "edit.png"
    file.write_bytes(server.client.download(image))
    with Image.open(file) as opened:
        return opened.convert("RGB")


def definition():
    (only,) = json.loads(BLUEPRINT.read_text("utf-8"))["definitions"]["subgraphs"]
    return only


def test_the_host_offers_the_block_in_its_node_search(server):
    ours = {
        key: entry
        for key, entry in server.client.get_json("/global_subgraphs").items()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"
    }
    assert [entry["name"] for entry in ours.values()] == [NAME]
    served = server.client.get_json(f"/global_subgraphs/{next(iter(ours))}")
    assert json.loads(served["data"]) == json.loads(BLUEPRINT.read_text("utf-8"))


def test_the_block_has_a_picture_two_prompts_and_one_knob():
    block = definition()
    names = [entry["name"] for entry in block["inputs"]]
    assert names == ["picture", "model", "clip", "vae", "source_prompt", "target_prompt", "change"]
    assert [(entry["name"], entry["type"]) for entry in block["outputs"]] == [("image", "IMAGE")]
    knob = next(node for node in block["nodes"] if node.get("title") == KNOB)
    assert (knob["properties"]["min"], knob["properties"]["max"]) == (0, 1)


@pytest.mark.parametrize(
    ("change", "text_scale", "noise_map_scale"),
    [(0.0, 3.0, 5.0), (0.5, 3.0, 1.5), (1.0, 7.5, 0.45)],
    ids=["preserve", "middle", "change"],
)
def test_the_knob_is_both_scales(pack, change, text_scale, noise_map_scale):
    maths = pytest.importorskip("comfy_extras.nodes_math", reason=NO_MATHS)
    wanted = {TEXT_SCALE: text_scale, NOISE_MAP_SCALE: noise_map_scale}
    for node in definition()["nodes"]:
        if node.get("title") in wanted:
            result = maths.MathExpressionNode.execute(node["widgets_values"][0], {"a": change})
            assert result.args[0] == pytest.approx(wanted.pop(node["title"]))
    assert not wanted


def test_every_node_in_the_block_is_known_with_the_values_it_has(info):
    for node in definition()["nodes"]:
        assert node["type"] in info
        inputs = info[node["type"]]["input"]
        known = {**inputs.get("required", {}), **inputs.get("optional", {})}
        assert {slot["name"].split(".")[0] for slot in node["inputs"]} <= set(known)
        wired = [slot for slot in node["inputs"] if not slot.get("widget")]
        needed = {name for name in inputs.get("required", {}) if name in {s["name"] for s in wired}}
        assert all(slot["link"] for slot in wired if slot["name"] in needed)


def test_the_knob_of_the_running_block_is_the_scales_of_nmg_sample(server, info, tmp_path):
    by_hand = prompt_of(info)
    sample = by_hand[find_node(by_hand, class_type="NMGSample")]["inputs"]
    sample.update(text_scale=3.0, noise_map_scale=5.0)
    preserving = edit_of(server, prompt_of(info, 0.0), tmp_path)
    assert preserving.tobytes() == edit_of(server, by_hand, tmp_path).tobytes()
    assert preserving.tobytes() != edit_of(server, prompt_of(info, 1.0), tmp_path).tobytes()


def test_a_picture_of_any_size_keeps_it(server, info, tmp_path):
    prompt = prompt_of(info)
    picture = find_node(prompt, class_type="NMGDemoPicture")
    empty = {"width": 101, "height": 75, "batch_size": 1, "color": 0x3060C0}
    prompt[picture].update(class_type="EmptyImage", inputs=empty)
    assert edit_of(server, prompt, tmp_path).size == (101, 75)
