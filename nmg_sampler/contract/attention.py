"""Attention as an editor sees it: one layer, under the prompts or under the negative prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .branches import Branches

# Words are located best in maps of a quarter of the latent's resolution, 16 x 16 cells for SD 1.x
# at 512 x 512; where that is fewer cells, in finer ones.
_WORD_FACTOR = 4
_WORD_CELLS = 16


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer of a network.

    Attributes:
        index: place in the order of execution among the layers of its kind, from 0; the self- and
            the cross-attention of one transformer block have the same index.
        cross: attends to the prompt instead of to the picture.
        stage: "input", "middle" or "output": the way down, the bottom, or the way up of the UNet.
        factor: how many latent cells one of its cells spans in each direction: 1, 2, 4, ...
        count: number of transformer blocks of the network.
        factors: the factors that its layers have, ascending.
    """

    index: int
    cross: bool
    stage: str
    factor: int
    count: int
    factors: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What a layer is about to compute for one half of classifier-free guidance.

    Attributes:
        layer: which layer.
        text: True under the prompts of the branches, False under the negative prompt.
        branches: what the rows are.
        size: (height, width) of the layer's cells; their product is the number of queries.
        q: (rows, height * width, heads * dim) queries.
        k: (rows, keys, heads * dim) keys; of the prompt's columns in cross-attention. Prompts of
            unequal length are repeated to one length, which changes no result: the first
            `columns[b]` keys of branch b are its prompt, once.
        v: (rows, keys, heads * dim) values.
        heads: number of heads.
        columns: prompt length per branch; empty in self-attention and under the negative prompt.
        attend: (q, k, v) -> (rows, queries, heads * dim), the network's own kernel.
    """

    layer: AttentionLayer
    text: bool
    branches: Branches
    size: tuple[int, int]
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    heads: int
    columns: tuple[int, ...]
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

    def plain(self) -> torch.Tensor:
        """What the layer computes on its own: (rows, queries, heads * dim)."""
        return self.attend(self.q, self.k, self.v)


class AttentionEdit(Protocol):
    """A change of attention during one prediction."""

    def wants(self, layer: AttentionLayer) -> bool:
        """Whether `layer` is to come through this edit; all others stay as they are."""
        ...

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        """The layer's result instead of `call.plain()`, of the same shape."""
        ...


def shows_words(layer: AttentionLayer, latent: Sequence[int], factor: int = 0) -> bool:
    """Whether this layer is one to look in for where words are in the picture.

    Args:
        layer: only cross-attention shows words.
        latent: (height, width) of the latent.
        factor: that of the layers wanted; the network's nearest is taken. 0 chooses: a quarter of
            the latent's resolution, but 16 cells on its shorter side where the network has them.
    """
    fine = [f for f in layer.factors if -(-min(latent) // f) >= _WORD_CELLS] or layer.factors[:1]
    among, wanted = (layer.factors, factor) if factor else (fine, _WORD_FACTOR)
    nearest = min(among, key=lambda f: max(f, wanted) / min(f, wanted))
    return layer.cross and layer.factor == nearest


def probabilities(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(dim)), materialised: (rows, heads, queries, keys).

    In float32 at least: half precision loses small probabilities, and sums of them.
    """
    precision = torch.promote_types(q.dtype, torch.float32)
    q, k = (split_heads(tensor.to(precision), heads) for tensor in (q, k))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(rows, tokens, heads * dim) as (rows, heads, tokens, dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def apply_probabilities(probabilities: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """(rows, heads, queries, keys) maps over (rows, keys, heads * dim) values, in v's dtype."""
    values = split_heads(v.to(probabilities.dtype), heads)
    return (probabilities @ values).transpose(1, 2).flatten(2).to(v.dtype)
