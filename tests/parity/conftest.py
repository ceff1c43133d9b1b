"""The pack inside a real ComfyUI, in this process."""

import pytest

from tools.host_process import boot


@pytest.fixture(scope="session")
def pack():
    return boot()
