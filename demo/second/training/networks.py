"""Networks of the demo models for training: the host's classes, initialised, with gradients.

Import after `tools.host_process.boot()`. Two kinds: `sd` (noise prediction, U-Net, 4 latent
channels) and `flow` (velocity, transformer, 16 latent channels).
"""

from __future__ import annotations

import importlib
import math

import comfy.latent_formats
import comfy.ops
import torch
from comfy.ldm.flux.model import Flux
from torch import Tensor, nn

host = importlib.import_module("nmg_pack.nodes.host.models.demo_model")

kinds = ("sd", "flow")
latent_channels = {"sd": 4, "flow": 16}


def _vae(channels: int) -> dict:
    common = {
        "double_z": True,
        "z_channels": channels,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {
        "ddconfig": {**common, "ch": 32, "ch_mult": [1, 1, 2, 4], "num_res_blocks": 1},
        "decoder_ddconfig": {**common, "ch": 32, "ch_mult": [1, 1, 2, 4], "num_res_blocks": 0},
        "embed_dim": channels,
    }


def _text(columns: int) -> dict:
    return {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": columns,
        "eos_token_id": 49407,
    }


_unet = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 128,
    "num_heads": -1,
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}

# Patch 1: a token per latent cell of 8 px, 256 of a picture.
_flow = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 1,
    "vec_in_dim": None,
    "context_in_dim": 128,
    "hidden_size": 192,
    "mlp_ratio": 4.0,
    "num_heads": 6,
    "depth": 3,
    "depth_single_blocks": 6,
    "axes_dim": [4, 14, 14],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
# Tokens of a caption, with start, end and padding: the longest that scenes write has 22.
text_columns = {"sd": 77, "flow": 24}

architectures: dict[str, dict] = {
    kind: {
        "version": 2,
        "kind": kind,
        "groups": 8,
        "size_px": 128,
        "vae": _vae(latent_channels[kind]),
        "text": _text(text_columns[kind]),
        "network": _unet if kind == "sd" else _flow,
    }
    for kind in kinds
}


def latent_format(kind: str) -> comfy.latent_formats.LatentFormat:
    """The stock latent format of the kind."""
    return comfy.latent_formats.SD15() if kind == "sd" else comfy.latent_formats.Flux()


def make_vae(kind: str, generator: torch.Generator) -> nn.Module:
    """The host's AutoencoderKL with fresh weights, gradients on."""
    vae = host.make_autoencoder(architectures[kind])
    initialise(vae, generator)
    # Each residual block starts as the identity, which lets the learning rate be high.
    for name, module in vae.named_modules():
        if name.endswith("conv2") or name.endswith("attn_1.proj_out"):
            _zero(module)
    return vae.train().requires_grad_(True)


def encode(vae: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B, C, h, w), float32, of pictures (B, 3, 8 h, 8 w) in -1..1."""
    mean, log_variance = vae.quant_conv(vae.encoder(pictures)).float().chunk(2, dim=1)
    return mean, log_variance.clamp(-20.0, 10.0)


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Pictures (B, 3, 8 h, 8 w), float32, about -1..1, of latents (B, C, h, w)."""
    return vae.decoder(vae.post_quant_conv(latents)).float()


def make_text(kind: str, rows: int, generator: torch.Generator) -> nn.Module:
    """The host's CLIP text transformer with an embedding of `rows` used tokens, gradients on."""
    architecture = architectures[kind]
    transformer = host.make_text_transformer(architecture, torch.float32, torch.device("cpu"))
    width = architecture["text"]["hidden_size"]
    transformer.embeddings.token_embedding = nn.Embedding(rows, width)
    initialise(transformer, generator)
    embeddings = transformer.embeddings
    for embedding in (embeddings.token_embedding, embeddings.position_embedding):
        nn.init.normal_(embedding.weight, std=0.1, generator=generator)
    return transformer.train().requires_grad_(True)


def encode_text(transformer: nn.Module, rows: Tensor) -> Tensor:
    """Context (B, n, width) of embedding rows (B, n).

    The host's own forward adds in place, which autograd refuses; same arithmetic, out of place.
    """
    embeddings = transformer.embeddings
    x = embeddings.token_embedding(rows) + embeddings.position_embedding.weight
    blocked = torch.full((rows.shape[1],) * 2, float("-inf")).triu_(1)
    for layer in transformer.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), blocked, attention_float32)
        x = x + layer.mlp(layer.layer_norm2(x))
    return transformer.final_layer_norm(x)


def make_unet(generator: torch.Generator) -> nn.Module:
    """The host's UNetModel with fresh weights in float32, gradients on."""
    unet = _sd_model().diffusion_model
    initialise(unet, generator)
    for name, module in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            _zero(module)
    return unet.train().requires_grad_(True)


def _sd_model() -> nn.Module:
    numbers = {**architectures["sd"], "unet": architectures["sd"]["network"]}
    return host.make_diffusion(numbers, torch.float32, None, None)


def predict_noise(unet: nn.Module, noisy: Tensor, steps: Tensor, context: Tensor) -> Tensor:
    """Noise (B, 4, h, w) that the network finds at timesteps `steps` (B,), model space."""
    options = {"optimized_attention_override": _override}
    return unet(noisy, steps.float(), context=context, transformer_options=options)


def alpha_bars() -> Tensor:
    """Signal share of each of the 1000 training timesteps, (1000,) float32, from the host."""
    sigmas = _sd_model().model_sampling.sigmas
    return (1.0 / (1.0 + sigmas.double().square())).float()


def _override(
    _: object, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **__: object
) -> Tensor:
    return attention_float32(q, k, v, heads, mask)


def make_flow(generator: torch.Generator) -> nn.Module:
    """The host's Flux transformer with fresh weights in float32, gradients on."""
    network = Flux(
        **architectures["flow"]["network"],
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    initialise(network, generator)
    # Every block starts as the identity and the velocity as zero.
    for name, module in network.named_modules():
        if name.endswith(("_mod.lin", "modulation.lin", "final_layer.linear")):
            _zero(module)
    return network.train().requires_grad_(True)


def attention_float32(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: object
) -> Tensor:
    """Multi-head attention on (B, n, heads * d), computed in float32.

    The bfloat16 backward of attention is several times slower than this one on a CPU.
    """
    batch, _, width = q.shape
    with torch.autocast("cpu", enabled=False):
        q, k, v = (
            t.float().view(batch, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v)
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, -1, width)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """torch's usual random weights for every layer: the host's layers leave theirs unset."""
    for module in network.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)):
            if module.weight is not None:
                nn.init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1.0 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
