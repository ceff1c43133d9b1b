"""Every workflow that ships: opened, whole, and run where nothing has to be downloaded."""

import pytest
from few_steps import FEW_STEPS, SHORTER, WITHOUT_ADVICE

from tools.host_server import PACK_NAME, ROOT

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
LOADERS = ("CheckpointLoaderSimple", "LoadImage")
EMPTY = {"nodes": [], "links": [], "version": 0.4}


def own_files(name):
    """Whether a workflow wants a checkpoint or a picture of the user's."""
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    return any(f'"{loader}"' in text for loader in LOADERS)


def test_the_server_offers_all_of_them(server):
    assert sorted(server.client.get_json("/workflow_templates")[PACK_NAME]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_template_browser_opens_a_workflow_whole(interface, server, workflow, name):
    url = f"/api/workflow_templates/{PACK_NAME}/{name}.json"
    assert server.client.get_json(url) == workflow(name)
    interface.load(EMPTY, "empty")
    interface.open_template(name)
    interface.wait_for_nodes(workflow(name))
    types = sorted(node["type"] for node in interface.serialized()["nodes"])
    assert types == sorted(node["type"] for node in workflow(name)["nodes"])
    assert interface.broken() == []
    assert interface.crowded() == []


@pytest.mark.parametrize("name", [name for name in NAMES if not own_files(name)])
def test_a_workflow_runs_and_shows_its_pictures(interface, workflow, name):
    interface.load(workflow(name), name)
    steps = WITHOUT_ADVICE.get(name, FEW_STEPS)
    # The interface is on trial here, not the picture.
    for widget, count in {**SHORTER, "steps": steps}.items():
        interface.set_widgets(widget, count)
    run = interface.run()
    assert run.end == "execution_success"
    interface.wait_for_pictures()
    # Pictures and texts make nodes larger.
    assert interface.crowded() == []
