"""What the host's own reader of pyproject.toml understands."""

import importlib

import pytest

from tools.host_releases import OLDEST
from tools.host_server import PACK_NAME, ROOT

pytestmark = pytest.mark.host_surface


def test_the_host_reads_the_description_of_the_pack(pack):
    reader = importlib.import_module("comfy_config.config_parser")
    read = reader.extract_node_configuration(str(ROOT))
    assert read.project.name == PACK_NAME
    assert read.project.dependencies == []
    assert read.project.supported_os == ["OS Independent"]
    assert read.project.supported_comfyui_version == f">={OLDEST.comfyui}"
    assert read.project.urls.repository.endswith(f"/{PACK_NAME}")
    assert read.project.license.file == "LICENSE"
    assert read.tool_comfy.publisher_id
    assert read.tool_comfy.display_name == "Noise Map Guidance"
    assert read.tool_comfy.icon.endswith("/docs/images/icon.png")
    assert read.tool_comfy.includes == []
