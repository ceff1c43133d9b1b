"""Small models of the host's own classes, for tests that run inside a real ComfyUI."""

import importlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data"


def make_patcher(unet_config, weights=None, *, dtype=torch.float32, prediction="EPS", seed=0):
    """A ModelPatcher around an SD 1.5 family model with this UNet; random weights if none."""
    model_base = importlib.import_module("comfy.model_base")
    supported = importlib.import_module("comfy.supported_models")
    patcher = importlib.import_module("comfy.model_patcher")
    management = importlib.import_module("comfy.model_management")

    class Config(supported.SD15):
        def __init__(self):
            super().__init__({**unet_config, "dtype": dtype})

    Config.unet_config = {}
    Config.unet_extra_config = {}
    config = Config()
    if dtype != torch.float32:
        config.manual_cast_dtype = torch.float32 if dtype == torch.float8_e4m3fn else None
    model = model_base.BaseModel(config, getattr(model_base.ModelType, prediction))
    if weights is None:
        weights = random_weights(model.diffusion_model, seed)
    model.diffusion_model.load_state_dict(weights)
    device = management.get_torch_device()
    return patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def random_weights(network, seed):
    """Weights at which no layer is silent: the host leaves them uninitialised."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name, value):
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 1:
            return 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        return noise / value[0].numel() ** 0.5

    return {name: draw(name, value).to(value.dtype) for name, value in network.state_dict().items()}


def parity_network(name, dtype=torch.float32):
    """The network of the parity vectors, as a ModelPatcher."""
    config = json.loads((DATA / "parity" / f"{name}.json").read_text())
    config.pop("dtype")
    weights = load_file(DATA / "parity" / f"{name}.safetensors")
    return make_patcher(config, {k: v.to(dtype) for k, v in weights.items()}, dtype=dtype)


def conditioning(embedding, **options):
    """A CONDITIONING of one prompt."""
    return [[embedding, dict(options)]]
