"""Models of full size with random weights: what counts is how large they are."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root / "tests"), str(root)]

from editor_memory import SD15  # noqa: E402
from host_models import conditioning, random_tensor  # noqa: E402

SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "num_head_channels": 64,
    "num_heads": -1,
    "use_spatial_transformer": True,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "legacy": False,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}


class Kind(NamedTuple):
    """A family.

    Attributes:
        name: of the family.
        config: of its network.
        supported: the host's class.
        pooled: width of the vector beside the tokens, 0 for none.
    """

    name: str
    config: dict[str, Any]
    supported: str
    pooled: int

    def load(self, dtype: torch.dtype, compute: torch.dtype | None = None) -> Any:
        """A ModelPatcher on the host's device.

        Args:
            dtype: of the weights.
            compute: what they are cast to where they are used, if to anything.
        """
        supported = importlib.import_module("comfy.supported_models")
        management = importlib.import_module("comfy.model_management")
        patcher = importlib.import_module("comfy.model_patcher")
        config = getattr(supported, self.supported)({**self.config, "dtype": dtype})
        config.manual_cast_dtype = compute
        with torch.inference_mode():
            model = config.get_model({})
            _fill(model.diffusion_model)
        device, offload = management.get_torch_device(), torch.device("cpu")
        return patcher.ModelPatcher(model, load_device=device, offload_device=offload)

    def prompt(self, seed: int) -> Any:
        """A CONDITIONING as long as one prompt."""
        options = {"pooled_output": random_tensor((1, self.pooled), seed)} if self.pooled else {}
        width = self.config["context_dim"]
        return conditioning(random_tensor((1, 77, width), seed), **options)


SD_15 = Kind("SD 1.5", SD15, "SD15", 0)
SD_XL = Kind("SDXL", SDXL, "SDXL", 1280)


def _fill(network: torch.nn.Module) -> None:
    """Weights at which no layer is silent; the same few numbers over and over, for speed."""
    noise = random_tensor((2**20,), 0)
    for weight in network.parameters():
        count = weight.numel()
        values = noise.repeat(-(-count // len(noise)))[:count].reshape(weight.shape)
        if weight.ndim > 1:
            weight.copy_(values / weight[0].numel() ** 0.5)
        else:
            weight.copy_(1 + 0.1 * values)
