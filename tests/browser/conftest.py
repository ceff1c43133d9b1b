"""One ComfyUI with the pack and one headless Chromium for the whole tier."""

import json
import os
import sys
from pathlib import Path

import pytest

from tools.host_environment import HostEnvironment
from tools.host_server import ROOT
from tools.web_session import web_session

CHECKPOINTS, INPUT = "models/checkpoints", "input"
PREVIEWS = ("--preview-method", "latent2rgb")
USERS_OWN = {"CheckpointLoaderSimple": CHECKPOINTS, "LoadImage": INPUT}


def give_users_files(base):
    """Something by the name of every file that a workflow expects of its user, to be offered."""
    for path in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(path.read_text("utf-8"))["nodes"]:
            if folder := USERS_OWN.get(node["type"]):
                file = base / folder / node["widgets_values"][0]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes((ROOT / "docs/images/icon.png").read_bytes())


@pytest.fixture(scope="session")
def _session():
    environment = HostEnvironment(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), "unknown")
    with web_session(environment, arguments=PREVIEWS) as (server, interface):
        give_users_files(server.base)
        interface.open()
        yield server, interface


@pytest.fixture(scope="session")
def server(_session):
    return _session[0]


@pytest.fixture
def interface(_session):
    """The interface as earlier tests left it; whatever of ours complains in a test fails it."""
    shown = _session[1]
    shown.complaints()
    yield shown
    assert shown.complaints() == []


@pytest.fixture
def workflow():
    return lambda name: json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
