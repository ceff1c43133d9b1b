"""The host's own loader, told that it is older than the pack needs."""

import asyncio
import importlib
import logging

import pytest

from tools.host_server import ROOT

pytestmark = pytest.mark.host_surface


def test_too_old_a_host_gets_one_line_and_no_node(host_loader, monkeypatch, caplog):
    monkeypatch.setattr(importlib.import_module("comfyui_version"), "__version__", "0.3.10")
    before = dict(host_loader.NODE_CLASS_MAPPINGS)
    with caplog.at_level(logging.WARNING):
        asyncio.run(host_loader.load_custom_node(str(ROOT)))
    (record,) = caplog.records
    assert "needs ComfyUI" in record.getMessage()
    assert "this is 0.3.10" in record.getMessage()
    assert before == host_loader.NODE_CLASS_MAPPINGS
