"""What the host is told about the pack: the interface that shared workflow files depend on."""

import asyncio
import importlib
import inspect
import logging
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The public interface that shared workflow files depend on: inputs in order, outputs, types.
INPUTS = {
    "NMGInvert": ["model", "positive", "latent_image", "steps", "schedule", "sigmas"],
    "NMGSample": [
        "model",
        "trajectory",
        "positive",
        "negative",
        "text_scale",
        "noise_map_scale",
        "gradient_scale",
        "mode",
        "guidance",
        "editor",
        "mask",
    ],
    "NMGGuidance": [
        "mode",
        "gradient",
        "loss",
        "reference",
        "noise_map_scale",
        "gradient_scale",
        "start",
        "end",
    ],
    "NMGPromptToPrompt": [
        "clip",
        "source_prompt",
        "target_prompt",
        "mode",
        "cross_replace",
        "self_replace",
        "blend_words",
        "reweight",
    ],
    "NMGMasaCtrl": ["start_step", "start_layer", "source_mask", "target_mask"],
    "NMGSaveTrajectory": ["trajectory", "filename_prefix"],
    "NMGLoadTrajectory": ["file"],
    "NMGDemoModel": [],
}
OPTIONAL = {
    "NMGInvert": {"sigmas"},
    "NMGSample": {"guidance", "editor", "mask"},
    "NMGMasaCtrl": {"source_mask", "target_mask"},
}
TYPES = {
    "model": "MODEL",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "latent_image": "LATENT",
    "steps": "INT",
    "schedule": "COMBO",
    "sigmas": "SIGMAS",
    "trajectory": "NMG_TRAJECTORY",
    "text_scale": "FLOAT",
    "noise_map_scale": "FLOAT",
    "gradient_scale": "FLOAT",
    "mode": "COMBO",
    "guidance": "NMG_GUIDANCE",
    "editor": "NMG_EDITOR",
    "mask": "MASK",
    "gradient": "COMBO",
    "loss": "COMBO",
    "reference": "COMBO",
    "start": "FLOAT",
    "end": "FLOAT",
    "start_step": "INT",
    "start_layer": "INT",
    "source_mask": "MASK",
    "target_mask": "MASK",
    "clip": "CLIP",
    "source_prompt": "STRING",
    "target_prompt": "STRING",
    "cross_replace": "FLOAT",
    "self_replace": "FLOAT",
    "blend_words": "STRING",
    "reweight": "STRING",
    "filename_prefix": "STRING",
    "file": "COMBO",
}
OUTPUTS = {
    "NMGInvert": [("trajectory", "NMG_TRAJECTORY"), ("latent", "LATENT")],
    "NMGSample": [("latent", "LATENT"), ("source", "LATENT")],
    "NMGGuidance": [("guidance", "NMG_GUIDANCE")],
    "NMGPromptToPrompt": [("editor", "NMG_EDITOR"), ("alignment", "STRING")],
    "NMGMasaCtrl": [("editor", "NMG_EDITOR")],
    "NMGSaveTrajectory": [("path", "STRING")],
    "NMGLoadTrajectory": [("trajectory", "NMG_TRAJECTORY")],
    "NMGDemoModel": [("model", "MODEL"), ("clip", "CLIP"), ("vae", "VAE")],
}
DISPLAY = {
    "NMGInvert": "NMG Invert",
    "NMGSample": "NMG Sample",
    "NMGGuidance": "NMG Guidance",
    "NMGPromptToPrompt": "Prompt-to-Prompt",
    "NMGMasaCtrl": "MasaCtrl",
    "NMGSaveTrajectory": "Save NMG Trajectory",
    "NMGLoadTrajectory": "Load NMG Trajectory",
    "NMGDemoModel": "NMG Demo Model",
}
OPTIONS = {
    ("NMGSample", "mode"): ["official", "fused"],
    ("NMGGuidance", "mode"): ["official", "fused"],
    ("NMGPromptToPrompt", "mode"): ["auto", "replace", "refine"],
    ("NMGGuidance", "gradient"): ["full", "direct"],
    ("NMGGuidance", "loss"): ["l1", "l2", "smooth_l1"],
}
CONTRACT = pytest.mark.parametrize("name", INPUTS)


@pytest.fixture
def schemas(nodes):
    return {name: node.GET_SCHEMA() for name, node in nodes.items()}


@pytest.fixture
def host_loader(pack):
    """The host's own loader on this checkout; its tables as they were afterwards."""
    host = importlib.import_module("nodes")
    tables = [
        host.NODE_CLASS_MAPPINGS,
        host.NODE_DISPLAY_NAME_MAPPINGS,
        host.EXTENSION_WEB_DIRS,
        host.LOADED_MODULE_DIRS,
    ]
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    yield host
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_the_host_loads_the_pack_without_a_warning(host_loader, nodes, caplog):
    path = list(sys.path)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(host_loader.load_custom_node(str(ROOT)))
    assert [record.getMessage() for record in caplog.records] == []
    assert sys.path == path
    assert set(nodes) <= set(host_loader.NODE_CLASS_MAPPINGS)
    for name, shown in DISPLAY.items():
        assert host_loader.NODE_DISPLAY_NAME_MAPPINGS[name] == shown
    assert any(Path(folder) == ROOT / "web" for folder in host_loader.EXTENSION_WEB_DIRS.values())


def test_loading_touches_no_node_of_the_host(host_loader):
    before = dict(host_loader.NODE_CLASS_MAPPINGS)
    asyncio.run(host_loader.load_custom_node(str(ROOT)))
    assert all(host_loader.NODE_CLASS_MAPPINGS[name] is node for name, node in before.items())


def test_the_older_interface_is_absent(pack):
    """Where both exist the host takes the older one."""
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
    assert not hasattr(pack, "NODE_DISPLAY_NAME_MAPPINGS")


@CONTRACT
def test_inputs_have_the_names_order_and_types_of_the_contract(schemas, name):
    inputs = schemas[name].inputs
    assert [given.id for given in inputs][: len(INPUTS[name])] == INPUTS[name]
    for given in inputs[: len(INPUTS[name])]:
        assert given.get_io_type() == TYPES[given.id]
        assert given.optional == (given.id in OPTIONAL.get(name, set()))


@CONTRACT
def test_inputs_beyond_the_contract_are_optional(schemas, name):
    assert all(given.optional for given in schemas[name].inputs[len(INPUTS[name]) :])


@CONTRACT
def test_outputs_have_the_order_of_the_contract(schemas, name):
    got = [(output.id, output.get_io_type()) for output in schemas[name].outputs]
    shown = [output.display_name or output.id for output in schemas[name].outputs]
    assert got == OUTPUTS[name]
    assert shown == [output for output, _ in OUTPUTS[name]]


@CONTRACT
def test_it_has_the_display_name_of_the_contract(schemas, name):
    assert schemas[name].node_id == name
    assert schemas[name].display_name == DISPLAY[name]


@pytest.mark.parametrize(("name", "given"), OPTIONS, ids=str)
def test_choices_are_those_of_the_contract(schemas, name, given):
    (widget,) = (one for one in schemas[name].inputs if one.id == given)
    assert sorted(widget.options) == sorted(OPTIONS[name, given])
    assert widget.default in widget.options


def test_schedules_are_the_official_ones_and_those_of_the_host(schemas):
    (widget,) = (given for given in schemas["NMGInvert"].inputs if given.id == "schedule")
    host = importlib.import_module("comfy.samplers").SCHEDULER_NAMES
    assert widget.options == ["official", "official-masactrl", *host]


def test_execute_takes_exactly_the_inputs(nodes, schemas):
    """Also which of them may be absent: the host leaves unconnected optional ones out."""
    for name, node in nodes.items():
        parameters = inspect.signature(node.execute).parameters
        inputs = {given.id: given for given in schemas[name].inputs}
        assert list(parameters) == list(inputs), name
        for given, parameter in parameters.items():
            absent_allowed = parameter.default is not inspect.Parameter.empty
            assert absent_allowed == inputs[given].optional, f"{name}.{given}"


def test_defaults_of_execute_are_those_of_the_widgets(nodes, schemas):
    for name, node in nodes.items():
        for given in schemas[name].inputs:
            parameter = inspect.signature(node.execute).parameters[given.id]
            widget = getattr(given, "default", None)
            if given.optional and widget is not None:
                assert parameter.default == widget, f"{name}.{given.id}"


def test_everything_says_what_it_is(schemas):
    for name, schema in schemas.items():
        assert schema.description.endswith("."), name
        assert schema.category.split("/")[0] == "NMG", name
        assert schema.search_aliases, name
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.tooltip, f"{name}.{socket.id}"
            assert socket.tooltip[-1] in ".)", f"{name}.{socket.id}"


def test_every_number_says_its_range(schemas):
    for name, schema in schemas.items():
        for given in schema.inputs:
            if given.get_io_type() in {"INT", "FLOAT"}:
                assert given.min is not None, f"{name}.{given.id}"
                assert given.min <= given.default <= given.max, f"{name}.{given.id}"
                both = f"{given.min:.12g} to {given.max:.12g}"
                assert both in given.tooltip, f"{name}.{given.id}: {both}"


def test_a_widget_means_the_same_on_every_node(schemas):
    seen = {}
    for name, schema in schemas.items():
        for given in schema.inputs:
            # Prompt-to-Prompt has modes of its own, by the name its papers and users know.
            own = (name, given.id) == ("NMGPromptToPrompt", "mode")
            if given.id in {"noise_map_scale", "gradient_scale", "mode"} and not own:
                facts = (given.tooltip, given.default, getattr(given, "min", None))
                assert seen.setdefault(given.id, facts) == facts, f"{name}.{given.id}"


def test_the_guidance_node_left_alone_is_what_the_sample_node_does(nodes, schemas):
    """Connecting it with its defaults changes nothing."""
    library = importlib.import_module("nmg_pack.nmg_sampler")
    defaults = {
        given.id: given.default for given in schemas["NMGGuidance"].inputs if not given.optional
    }
    made = nodes["NMGGuidance"].execute(**defaults)[0]
    widgets = {given.id: getattr(given, "default", None) for given in schemas["NMGSample"].inputs}
    make = {"official": library.official_guidance, "fused": library.fused_guidance}
    scales = widgets["noise_map_scale"], widgets["gradient_scale"]
    assert made == make[widgets["mode"]](*scales)


def test_official_on_the_guidance_node_is_official_on_the_sample_node(nodes):
    library = importlib.import_module("nmg_pack.nmg_sampler")
    made = nodes["NMGGuidance"].execute("official", "full", "l1", "auto", 10.0, 5000.0, 0.0, 1.0)
    assert made[0] == library.official_guidance(10.0, 5000.0)


def test_the_host_can_describe_every_node_to_its_interface(nodes):
    for name, node in nodes.items():
        info = node.GET_NODE_INFO_V1()
        assert info["name"] == name
        assert info["output_tooltips"]


def test_every_node_has_a_help_page(schemas):
    for name, schema in schemas.items():
        page = ROOT / "web" / "docs" / name / "en.md"
        alternative = ROOT / "web" / "docs" / f"{name}.md"
        found = page if page.is_file() else alternative
        assert found.is_file(), name
        text = found.read_text(encoding="utf-8")
        for given in schema.inputs:
            assert re.search(rf"\b{given.id}\b", text), f"{name}: {given.id} is not explained"
