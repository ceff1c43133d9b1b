"""The pack inside a real ComfyUI, in this process, in the mode the host executes nodes in."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from host_models import Differentiation, calm_network, parity_network

from tools.host_environment import HostEnvironment
from tools.host_process import boot
from tools.host_releases import OLDEST
from tools.host_server import host_server


@pytest.fixture(scope="session")
def pack():
    # The attention that the host takes on a card; the one for the CPU asks for the free memory at
    # every call. That one runs in the server of this tier, and here on the oldest host.
    oldest = OLDEST.comfyui in Path(os.environ["COMFYUI_PATH"], "comfyui_version.py").read_text()
    return boot(args=("--cpu", *([] if oldest else ["--use-pytorch-cross-attention"])))


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    """The host executes a graph in inference mode: models are made and loaded in it as well."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def library(pack):
    return importlib.import_module("nmg_pack.nmg_sampler")


@pytest.fixture(scope="session")
def nodes(pack):
    """The node classes by id."""
    return {node.__name__: node for node in importlib.import_module("nmg_pack.nodes").NODES}


@pytest.fixture(scope="session")
def model(pack):
    """The network "two"; nothing may change it, a patch goes on a clone."""
    with torch.inference_mode():
        return parity_network("two")


@pytest.fixture(scope="session")
def calm(pack):
    """The calm network, whose steps are small; nothing may change it, a patch goes on a clone."""
    with torch.inference_mode():
        return calm_network()


@pytest.fixture(scope="session")
def demo(nodes):
    """(model, clip, vae) of the demo model; nothing may change them."""
    with torch.inference_mode():
        return nodes["NMGDemoModel"].execute().result


@pytest.fixture(scope="session")
def encode(demo):
    """The CONDITIONING of a text, by the demo model's text encoder."""
    node = importlib.import_module("nodes").CLIPTextEncode()
    return lambda text: node.encode(demo[1], text)[0]


@pytest.fixture(scope="session")
def vae(demo):
    """That of the demo model: for latents of the same channels."""
    return demo[2]


@pytest.fixture(scope="session")
def host(pack):
    """A module of the host by name."""
    return importlib.import_module


@pytest.fixture(scope="session")
def model_tools(pack):
    return importlib.import_module("nmg_pack.nodes.host.models.model")


@pytest.fixture(scope="session")
def runs(pack):
    return importlib.import_module("nmg_pack.nodes.host.runs")


@pytest.fixture
def differentiation(pack):
    return Differentiation()


@pytest.fixture(autouse=True)
def _nothing_stays_interrupted(pack):
    yield
    importlib.import_module("comfy.model_management").interrupt_current_processing(False)


@pytest.fixture(scope="session")
def server(pack):
    """Started once: it takes longer than everything that is asked of it."""
    comfyui = Path(os.environ["COMFYUI_PATH"])
    environment = HostEnvironment(comfyui, Path(sys.executable), "unknown")
    with host_server(environment, device="cpu") as running:
        yield running


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
