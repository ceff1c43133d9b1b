"""One ComfyUI with the pack and one headless Chromium for the whole tier."""

import json
import os
import sys
from pathlib import Path

import pytest

from tools.host_environment import HostEnvironment
from tools.host_server import ROOT
from tools.web_session import PREVIEWS, give_users_files, web_session


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
