"""The pack inside a real ComfyUI, in this process, in the mode the host executes nodes in."""

import pytest
import torch
from recorded import host_parts

from tools.host_process import boot


@pytest.fixture(scope="session")
def pack():
    # The attention that the host takes on a card: the one for the CPU is several times slower.
    return boot(args=("--cpu", "--use-pytorch-cross-attention"))


@pytest.fixture(scope="session")
def host(pack):
    """(library, host modules of the pack)."""
    return host_parts()


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    with torch.inference_mode():
        yield
