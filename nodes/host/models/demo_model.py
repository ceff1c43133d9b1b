"""The embedded demo model, built from one small file with the host's own classes.

The file (`demo/model.safetensors`, float16) holds the three networks under the prefixes `unet.`,
`vae.` and `text.`, the used rows of the token embedding, and the architecture as JSON in its
metadata.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.clip_model import CLIPTextModel
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

format_version = 1
vocabulary_rows = 49408
# What the live preview makes colours of the demo VAE's latents with: by demo/training/preview.py.
PREVIEW_FACTORS = [
    [0.5602, 0.427, -0.2034],
    [-0.141, 0.1224, 0.0593],
    [-0.1451, -0.3613, -0.3273],
    [-0.4125, -0.0087, 0.397],
]
PREVIEW_BIAS = [0.0521, -0.0236, -0.0857]
_token_rows = "text.token_rows"
_token_table = "text.embeddings.token_embedding.weight"


class _DemoConfig(comfy.supported_models.SD15):
    """Stable Diffusion 1.x in everything but size, which the file decides."""

    unet_config: ClassVar[dict] = {}
    unet_extra_config: ClassVar[dict] = {}
    latent_format = comfy.latent_formats.SD15


def load_demo_model(
    path: str | Path,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """Model, text encoder and VAE of the demo file, as the host's checkpoint loader gives them.

    Devices and dtypes are the host's choice; on a CPU everything computes in float32.

    Args:
        path: the safetensors file that `demo/training/train.py` exports.

    Raises:
        ValueError: the file is missing, not safetensors, of another version or incomplete.
    """
    architecture, tensors = _read(Path(path))
    try:
        return (
            _model(architecture, _part(tensors, "unet.")),
            _clip(architecture, tensors),
            _vae(architecture, _part(tensors, "vae.")),
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"load_demo_model: path holds no complete demo model. Got {path} ({error}); expected "
            f"a file that demo/training/train.py exported. {_restore}"
        ) from error


_restore = "Restore demo/model.safetensors from the repository or run demo/training/train.py."


def latent_format() -> comfy.latent_formats.LatentFormat:
    """The stock latent format that the model uses."""
    return _DemoConfig.latent_format()


def make_diffusion(
    architecture: dict,
    dtype: torch.dtype,
    manual_cast_dtype: torch.dtype | None,
    device: torch.device | None,
) -> comfy.model_base.BaseModel:
    """The host's diffusion model without weights: eps prediction, Stable Diffusion 1.x levels."""
    config = _DemoConfig(_copy(architecture["unet"]))
    config.set_inference_dtype(dtype, manual_cast_dtype)
    # On this instance alone: to everything else it is the stock format.
    config.latent_format.latent_rgb_factors = PREVIEW_FACTORS
    config.latent_format.latent_rgb_factors_bias = PREVIEW_BIAS
    model = config.get_model({}, device=device)
    set_groups(model.diffusion_model, architecture["groups"])
    return model


def make_autoencoder(architecture: dict) -> AutoencoderKL:
    """The host's VAE network without weights."""
    network = AutoencoderKL(**_copy(architecture["vae"]))
    set_groups(network, architecture["groups"])
    return network


def make_text_transformer(
    architecture: dict, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The host's CLIP text transformer (embeddings, encoder, final norm) without weights."""
    config = _copy(architecture["text"])
    return CLIPTextModel(config, dtype, device, comfy.ops.manual_cast).text_model


def set_groups(network: nn.Module, groups: int) -> None:
    """Group norms with `groups` groups; the host's 32 would be instance norms at 32 channels.

    Weights of a group norm are per channel, so the change needs none of them.
    """
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = groups


def _model(architecture: dict, weights: dict[str, Tensor]) -> comfy.model_patcher.ModelPatcher:
    management = comfy.model_management
    device = management.get_torch_device()
    count = sum(tensor.numel() for tensor in weights.values())
    supported = list(_DemoConfig.supported_inference_dtypes)
    dtype = management.unet_dtype(
        model_params=count, supported_dtypes=supported, weight_dtype=torch.float16
    )
    manual_cast_dtype = management.unet_manual_cast(dtype, device, supported)
    initial_device = management.unet_inital_load_device(count, dtype)
    model = make_diffusion(architecture, dtype, manual_cast_dtype, initial_device)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=device, offload_device=management.unet_offload_device()
    )
    _load(model.diffusion_model, weights, patcher.is_dynamic())
    return patcher


def _vae(architecture: dict, weights: dict[str, Tensor]) -> comfy.sd.VAE:
    network = make_autoencoder(architecture)
    weights = {**_silent_blocks(network, architecture), **weights}
    _check_names(network, weights)
    vae = comfy.sd.VAE(sd=weights, config={"params": _copy(architecture["vae"])})
    set_groups(vae.first_stage_model, architecture["groups"])
    return vae


def _silent_blocks(network: AutoencoderKL, architecture: dict) -> dict[str, Tensor]:
    """Zero weights, with which a residual block returns its input, for blocks the model has not.

    Hosts without `decoder_ddconfig` (ComfyUI 0.18) make the decoder as deep as the encoder.
    """
    depth = architecture["vae"]["decoder_ddconfig"]["num_res_blocks"] + 1
    return {
        name: torch.zeros_like(value)
        for name, value in network.state_dict().items()
        if (block := re.match(r"decoder\.up\.\d+\.block\.(\d+)\.", name))
        and int(block.group(1)) >= depth
    }


def _clip(architecture: dict, tensors: dict[str, Tensor]) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    weights = _text_weights(architecture, tensors)
    options = {"clip_l_model_config": _copy(architecture["text"])}
    count = sum(tensor.numel() for tensor in weights.values())
    return comfy.sd.CLIP(target, parameters=count, state_dict=weights, model_options=options)


def _text_weights(architecture: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's weights under the host's names, with the whole token table.

    Rows of words that were never trained are zero.
    """
    rows, used = tensors[_token_rows].long(), tensors[_token_table]
    width = architecture["text"]["hidden_size"]
    table = torch.zeros((vocabulary_rows, width), dtype=used.dtype)
    table[rows] = used
    prefix = "clip_l.transformer."
    weights = {
        f"{prefix}text_model.{name}": tensor
        for name, tensor in _part({**tensors, _token_table: table}, "text.").items()
        if name != "token_rows"
    }
    weights[f"{prefix}text_projection.weight"] = torch.eye(width, dtype=used.dtype)
    return weights


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Architecture and tensors of the file."""
    if not path.is_file():
        raise ValueError(
            f"load_demo_model: path has no file. Got {path}; expected demo/model.safetensors. "
            f"{_restore}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        architecture = json.loads(metadata.get("architecture", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"load_demo_model: path is not a readable safetensors file. Got {path} ({error}); "
            f"expected the file that demo/training/train.py exported. {_restore}"
        ) from error
    if architecture.get("version") != format_version:
        raise ValueError(
            f"load_demo_model: path holds another kind of model. Got version "
            f"{architecture.get('version')} in {path}; expected {format_version}. {_restore}"
        )
    return architecture, tensors


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _load(network: nn.Module, weights: dict[str, Tensor], assign: bool) -> None:
    network.load_state_dict(weights, strict=True, assign=assign)


def _check_names(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """The host only warns when weights are missing."""
    missing = network.state_dict().keys() - weights.keys()
    if missing:
        raise KeyError(f"{len(missing)} weights are missing, first {min(missing)}")


def _copy(numbers: dict) -> dict:
    """A copy that the host may change: it pops entries from the lists it is given."""
    return json.loads(json.dumps(numbers))
