"""The host's Flux transformer, differentiable: the same weights and arithmetic, out of place.

The host's blocks add in place and its rotary kernel has no backward pass. A test holds `velocity`
equal to the host's own forward.
"""

from __future__ import annotations

import torch
from comfy.ldm.flux.layers import ModulationOut, timestep_embedding
from torch import Tensor, nn

written_out_tokens = 160


def velocity(
    network: nn.Module, x: Tensor, t: Tensor, context: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Velocity (noise - picture) that the transformer finds, patch size 1.

    Args:
        network: the host's Flux without pooled text and guidance inputs.
        x: (B, C, h, w) latents at level `t`, in the model's space.
        t: (B,) levels, 0 (picture) to 1 (noise).
        context: (B, n, context_in_dim) text.
        kept: (m,) indices of the image tokens (row by row) that the network sees; all if None.

    Returns:
        (B, C, h, w), or (B, m, C) tokens if `kept` is given.
    """
    batch, channels, height, width = x.shape
    tokens = x.flatten(2).transpose(1, 2)  # (B, h w, C)
    ids = _image_ids(height, width)
    if kept is not None:
        tokens, ids = tokens[:, kept], ids[kept]
    text_ids = torch.zeros((context.shape[1], ids.shape[1]))
    rotations = network.pe_embedder(torch.cat([text_ids, ids])[None])
    found = _forward(network, tokens, t, context, rotations)
    if kept is not None:
        return found
    return found.transpose(1, 2).reshape(batch, channels, height, width)


def _image_ids(height: int, width: int) -> Tensor:
    """Position (0, row, column) of each token, (h w, 3) float32."""
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)


def _forward(
    network: nn.Module, tokens: Tensor, t: Tensor, context: Tensor, rotations: Tensor
) -> Tensor:
    image = network.img_in(tokens)
    vector = network.time_in(timestep_embedding(t, 256).to(image.dtype))
    text = network.txt_in(context)
    for block in network.double_blocks:
        image, text = _double(block, image, text, vector, rotations)
    joint = torch.cat([text, image], dim=1)
    for block in network.single_blocks:
        joint = _single(block, joint, vector, rotations)
    return network.final_layer(joint[:, text.shape[1] :], vector)


def _double(
    block: nn.Module, image: Tensor, text: Tensor, vector: Tensor, rotations: Tensor
) -> tuple[Tensor, Tensor]:
    image_first, image_second = block.img_mod(vector)
    text_first, text_second = block.txt_mod(vector)
    image_qkv = _qkv(block.img_attn, _modulated(block.img_norm1(image), image_first))
    text_qkv = _qkv(block.txt_attn, _modulated(block.txt_norm1(text), text_first))
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(text_qkv, image_qkv, strict=True))
    mixed = _attention(q, k, v, rotations)
    text_mixed, image_mixed = mixed[:, : text.shape[1]], mixed[:, text.shape[1] :]
    image = image + block.img_attn.proj(image_mixed) * image_first.gate
    image = image + block.img_mlp(_modulated(block.img_norm2(image), image_second)) * (
        image_second.gate
    )
    text = text + block.txt_attn.proj(text_mixed) * text_first.gate
    text = text + block.txt_mlp(_modulated(block.txt_norm2(text), text_second)) * text_second.gate
    return image, text


def _single(block: nn.Module, x: Tensor, vector: Tensor, rotations: Tensor) -> Tensor:
    change, _ = block.modulation(vector)
    both = block.linear1(_modulated(block.pre_norm(x), change))
    qkv, hidden = both.split([3 * block.hidden_size, block.mlp_hidden_dim], dim=-1)
    q, k, v = _heads(qkv, block.num_heads)
    mixed = _attention(*_normed(block.norm, q, k), v, rotations)
    return x + block.linear2(torch.cat([mixed, block.mlp_act(hidden)], dim=2)) * change.gate


def _qkv(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _heads(layer.qkv(x), layer.num_heads)
    return *_normed(layer.norm, q, k), v


def _normed(norm: nn.Module, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The host's query and key norms, in float32."""
    return norm.query_norm(q.float()), norm.key_norm(k.float())


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """q, k and v, each (B, heads, n, d), of (B, n, 3 * heads * d)."""
    return qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _modulated(x: Tensor, change: ModulationOut) -> Tensor:
    return torch.addcmul(change.shift, x, 1 + change.scale)


def _attention(q: Tensor, k: Tensor, v: Tensor, rotations: Tensor) -> Tensor:
    """(B, n, heads * d); positions are turned in float32."""
    q, k = _rotated(q.float(), rotations), _rotated(k.float(), rotations)
    if q.shape[2] <= written_out_tokens:
        # For so few tokens the backward pass of plain products is several times faster on a CPU.
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        out = weights @ v
    else:
        out = nn.functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
    return out.transpose(1, 2).flatten(2)


def _rotated(x: Tensor, rotations: Tensor) -> Tensor:
    """Pairs of x (B, heads, n, d) turned by `rotations` (1, 1, n, d / 2, 2, 2)."""
    pairs = x.unflatten(-1, (-1, 1, 2))
    return (rotations[..., 0] * pairs[..., 0] + rotations[..., 1] * pairs[..., 1]).flatten(-2)
