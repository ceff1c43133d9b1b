"""What the host is told about the pack: the interface that shared workflow files depend on."""

import asyncio
import importlib
import inspect
import logging
import re
import sys
from pathlib import Path

import pytest
from host_contract import CONTRACTS, Contract
from host_nodes import guidance

pytestmark = pytest.mark.host_surface

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = {
    ("NMGSample", "mode"): ["official", "fused"],
    ("NMGGuidance", "mode"): ["official", "fused"],
    ("NMGPromptToPrompt", "mode"): ["auto", "replace", "refine"],
    ("NMGGuidance", "gradient"): ["full", "direct"],
    ("NMGGuidance", "loss"): ["l1", "l2", "smooth_l1"],
    ("NMGGradientMemory", "plan"): ["auto", "keep", "blocks"],
}
CONTRACT = pytest.mark.parametrize("name", CONTRACTS)


@pytest.fixture
def schemas(nodes):
    return {name: node.GET_SCHEMA() for name, node in nodes.items()}


def test_the_host_loads_the_pack_without_a_warning(host_loader, nodes, caplog):
    path = list(sys.path)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(host_loader.load_custom_node(str(ROOT)))
    assert [record.getMessage() for record in caplog.records] == []
    assert sys.path == path
    assert set(nodes) <= set(host_loader.NODE_CLASS_MAPPINGS)
    for name, contract in CONTRACTS.items():
        assert host_loader.NODE_DISPLAY_NAME_MAPPINGS[name] == contract.display_name
    assert any(Path(folder) == ROOT / "web" for folder in host_loader.EXTENSION_WEB_DIRS.values())


def test_loading_touches_no_node_of_the_host(host_loader):
    before = dict(host_loader.NODE_CLASS_MAPPINGS)
    asyncio.run(host_loader.load_custom_node(str(ROOT)))
    assert all(host_loader.NODE_CLASS_MAPPINGS[name] is node for name, node in before.items())


def test_the_older_interface_is_absent(pack):
    """Where both exist the host takes the older one."""
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
    assert not hasattr(pack, "NODE_DISPLAY_NAME_MAPPINGS")


def test_every_node_has_a_contract(schemas):
    """If one has none yet, its line of the message is what to add, and `ruff format` its form."""
    added = schemas.keys() - CONTRACTS.keys()
    assert [f'"{name}": {Contract.of(schemas[name])},' for name in sorted(added)] == []
    assert CONTRACTS.keys() <= schemas.keys()


def test_every_node_class_is_in_the_list_of_its_room(nodes):
    listed = re.compile(r"^class (\w+)\(.*\bio\.ComfyNode\)", re.MULTILINE)
    files = (path.read_text("utf-8") for path in (ROOT / "nodes").rglob("*.py"))
    assert sorted(name for text in files for name in listed.findall(text)) == sorted(nodes)


@CONTRACT
def test_inputs_have_the_names_order_and_types_of_the_contract(schemas, name):
    got = Contract.of(schemas[name]).inputs
    assert got[: len(CONTRACTS[name].inputs)] == CONTRACTS[name].inputs


@CONTRACT
def test_inputs_beyond_the_contract_are_optional(schemas, name):
    assert all(given.optional for given in schemas[name].inputs[len(CONTRACTS[name].inputs) :])


@CONTRACT
def test_outputs_have_the_order_of_the_contract(schemas, name):
    assert Contract.of(schemas[name]).outputs == CONTRACTS[name].outputs
    assert all(one.display_name in (None, one.id) for one in schemas[name].outputs)


@CONTRACT
def test_it_has_the_display_name_of_the_contract(schemas, name):
    assert schemas[name].node_id == name
    assert schemas[name].display_name == CONTRACTS[name].display_name


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
    made = guidance(nodes, mode="official", gradient="full", noise_map_scale=10.0)
    assert made == library.official_guidance(10.0, 5000.0)


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
