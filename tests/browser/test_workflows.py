"""Every workflow that ships: opened, whole, and run where nothing has to be downloaded."""

import json

import pytest

from tools.host_server import PACK_NAME, ROOT

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
LOADERS = ("CheckpointLoaderSimple", "LoadImage")
FEW_STEPS = 8  # the interface is on trial here; the host tier runs each workflow as it ships


def own_files(name):
    """Whether a workflow wants a checkpoint or a picture of the user's."""
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    return any(f'"{loader}"' in text for loader in LOADERS)


def test_the_template_browser_opens_a_workflow(interface, workflow):
    interface.open_template("edit")
    interface.wait_for_nodes(workflow("edit"))
    assert interface.broken() == []
    titles = {node["title"] for node in interface.serialized()["nodes"] if "title" in node}
    assert "NMG Sample: edit" in titles


def test_the_server_offers_all_of_them(server):
    assert sorted(server.client.get_json("/workflow_templates")[PACK_NAME]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole(interface, server, name):
    url = f"/api/workflow_templates/{PACK_NAME}/{name}.json"
    served = server.client.get_json(url)
    assert served == json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    interface.load(served, name)
    assert interface.broken() == []


@pytest.mark.parametrize("name", [name for name in NAMES if not own_files(name)])
def test_a_workflow_runs_and_shows_its_pictures(interface, workflow, name):
    interface.load(workflow(name), name)
    interface.set_widgets("steps", FEW_STEPS)
    interface.set_widgets("skip", FEW_STEPS // 3)
    run = interface.run()
    assert run.end == "execution_success"
    interface.wait_for_pictures()
