"""A ComfyUI that the pack cannot run in: one clear line, and no node; here with a made-up one."""

import importlib.util
import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tools.host_releases import OLDEST

ROOT = Path(__file__).resolve().parents[2]
PACK = "pack_in_a_fake_host"


@pytest.fixture
def host(monkeypatch):
    """Sets up a host by version (None: it does not say) and the names that it has."""

    def make(version, names):
        modules = {name.rpartition(".")[0] for name in names}
        for name in {"comfyui_version", "comfy_api.latest", "comfy.ops", "comfy.samplers"}:
            monkeypatch.setitem(sys.modules, name, ModuleType(name) if name in modules else None)
        for name in ("comfy_api", "comfy"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name in names:
            module, _, attribute = name.rpartition(".")
            setattr(sys.modules[module], attribute, object())
        if version is not None:
            module = ModuleType("comfyui_version")
            module.__version__ = version
            monkeypatch.setitem(sys.modules, "comfyui_version", module)

    return make


@pytest.fixture
def load(monkeypatch):
    """Loads the pack as the host does, without its nodes."""

    def load_pack():
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        pack = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, PACK, pack)
        monkeypatch.delitem(sys.modules, f"{PACK}.compatibility", raising=False)
        spec.loader.exec_module(pack)
        return pack

    return load_pack


@pytest.fixture(scope="module")
def needed():
    spec = importlib.util.spec_from_file_location("compatibility", ROOT / "compatibility.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NEEDED


@pytest.mark.parametrize("version", [OLDEST.comfyui, "0.30.0", "0.100.1", "1.0", None])
def test_a_host_that_has_everything_is_served(host, load, needed, version, caplog):
    host(version, needed)
    pack = load()
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
    assert callable(pack.comfy_entrypoint)
    assert not caplog.records


@pytest.mark.parametrize("version", ["0.3.10", "0.9.99", "0.16.2", "0.16.0"])
def test_a_host_that_is_too_old_is_told_so_in_one_line(host, load, needed, version, caplog):
    host(version, needed)
    with caplog.at_level(logging.DEBUG):
        pack = load()
    assert pack.NODE_CLASS_MAPPINGS == {}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"Noise Map Guidance is not loaded: it needs ComfyUI {OLDEST.comfyui} or newer, and this "
        f"is {version}. Update ComfyUI."
    )


@pytest.mark.parametrize("version", ["0.30.0", None])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_host_without_something_needed_is_told_what(host, load, needed, version, gone, caplog):
    host(version, [name for i, name in enumerate(needed) if i % 3 != gone])
    pack = load()
    assert pack.NODE_CLASS_MAPPINGS == {}
    (record,) = caplog.records
    for name in needed[gone::3]:
        assert name in record.getMessage()
    assert (version or "unknown version") in record.getMessage()


def test_a_host_before_the_node_api_is_told_what(host, load, needed, caplog):
    host(None, [name for name in needed if not name.startswith("comfy_api.")])
    assert load().NODE_CLASS_MAPPINGS == {}
    (record,) = caplog.records
    assert "lacks comfy_api.latest.ComfyExtension, comfy_api.latest.io." in record.getMessage()


def test_the_oldest_version_is_the_same_everywhere():
    text = (ROOT / "compatibility.py").read_text("utf-8")
    assert re.search(r'OLDEST_COMFYUI = "(.+)"', text).group(1) == OLDEST.comfyui
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert re.search(r'requires-comfyui = ">=(.+)"', text).group(1) == OLDEST.comfyui
