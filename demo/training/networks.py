"""Networks of the demo model for training: the host's classes, initialised and ready for gradients.

Import after `tools.host_process.boot()`; the numbers of the architecture are in `architecture`.
"""

from __future__ import annotations

import importlib
import math

import torch
from torch import Tensor, nn

host = importlib.import_module("nmg_pack.nodes.host.models.demo_model")

_coder = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [],
    "dropout": 0.0,
    "ch": 32,
    "ch_mult": [1, 1, 2, 4],
}

architecture: dict = {
    "version": 1,
    "groups": 8,
    "size_px": 128,
    "vae": {
        "ddconfig": {**_coder, "num_res_blocks": 1},
        "decoder_ddconfig": {**_coder, "num_res_blocks": 0},
        "embed_dim": 4,
    },
    "unet": {
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
    },
    "text": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
    },
}


def make_vae(generator: torch.Generator) -> nn.Module:
    """The host's AutoencoderKL with fresh weights, gradients on."""
    vae = host.make_autoencoder(architecture)
    initialise(vae, generator)
    # Each residual block starts as the identity, which lets the learning rate be high.
    for name, module in vae.named_modules():
        if name.endswith("conv2") or name.endswith("attn_1.proj_out"):
            _zero(module)
    return vae.train().requires_grad_(True)


def make_unet(generator: torch.Generator) -> nn.Module:
    """The host's UNetModel with fresh weights in float32, gradients on."""
    unet = host.make_diffusion(architecture, torch.float32, None, None).diffusion_model
    initialise(unet, generator)
    for name, module in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            _zero(module)
    return unet.train().requires_grad_(True)


def make_text(rows: int, generator: torch.Generator) -> nn.Module:
    """The host's CLIP text transformer with an embedding of `rows` used tokens, gradients on."""
    text = host.make_text_transformer(architecture, torch.float32, torch.device("cpu"))
    width = architecture["text"]["hidden_size"]
    text.embeddings.token_embedding = nn.Embedding(rows, width)
    initialise(text, generator)
    for embedding in (text.embeddings.token_embedding, text.embeddings.position_embedding):
        nn.init.normal_(embedding.weight, std=0.1, generator=generator)
    return text.train().requires_grad_(True)


def encode_text(text: nn.Module, rows: Tensor) -> Tensor:
    """Context (B, 77, width) of embedding rows (B, 77).

    The host's own forward adds in place, which autograd refuses; same arithmetic, out of place.
    """
    x = text.embeddings.token_embedding(rows) + text.embeddings.position_embedding.weight
    blocked = torch.full((rows.shape[1],) * 2, float("-inf"), device=rows.device).triu_(1)
    for layer in text.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), blocked, attention_float32)
        x = x + layer.mlp(layer.layer_norm2(x))
    return text.final_layer_norm(x)


def predict(unet: nn.Module, noisy: Tensor, steps: Tensor, context: Tensor) -> Tensor:
    """Noise (B, 4, h, w) that the network finds at timesteps `steps` (B,), model space."""
    options = {"optimized_attention_override": _override}
    return unet(noisy, steps.float(), context=context, transformer_options=options)


def alpha_bars() -> Tensor:
    """Signal share of each of the 1000 training timesteps, (1000,) float32, from the host."""
    sigmas = host.make_diffusion(architecture, torch.float32, None, None).model_sampling.sigmas
    return (1.0 / (1.0 + sigmas.double().square())).float()


def latent_scale_factor() -> float:
    """The host's factor from VAE latents to model space."""
    return float(host.latent_format().scale_factor)


def _override(
    _: object, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **__: object
) -> Tensor:
    return attention_float32(q, k, v, heads, mask)


def attention_float32(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: object
) -> Tensor:
    """Multi-head attention on (B, n, heads * d), computed in float32.

    The bfloat16 backward of attention is several times slower than this one on a CPU.
    """
    batch, _, width = q.shape
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (
            t.float().view(batch, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v)
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, -1, width)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """torch's usual random weights for every layer: the host's layers leave theirs unset."""
    for module in network.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1.0 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
