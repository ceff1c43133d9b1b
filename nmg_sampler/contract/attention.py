"""Attention as an editor sees it: one layer of a network, in one half of classifier-free guidance.

A UNet attends to the picture and to the prompt in layers of their own; a transformer may attend to
both at once, over tokens of which some are the picture's cells and some the prompt's columns. What
an editor is given is the same: queries, keys and values as the network's kernel gets them, and
which tokens are what.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch

from .branches import Branches

# Words are located best in maps of a quarter of the latent's resolution, 16 x 16 cells for SD 1.x
# at 512 x 512; where that is fewer cells, in finer ones.
_WORD_FACTOR = 4
_WORD_CELLS = 16


class Half(Enum):
    """Half of classifier-free guidance."""

    UNCOND = "uncond"  # under the negative prompt
    COND = "cond"  # under the prompts of the branches


class Attends(Enum):
    """What the tokens of a layer attend to."""

    SELF = "self"  # the picture to itself
    CROSS = "cross"  # the picture to the prompt
    JOINT = "joint"  # picture and prompt to both, over the tokens of both


@dataclass(frozen=True)
class UNetPlace:
    """Where in a UNet a layer is.

    Attributes:
        stage: "input", "middle" or "output": the way down, the bottom, or the way up.
        factors: the factors that the UNet's layers have, ascending.
    """

    stage: str
    factors: tuple[int, ...]


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer of a network.

    Attributes:
        index: of its transformer block in the order of execution, from 0.
        count: number of transformer blocks of the network.
        attends: to what.
        factor: how many latent cells one of its cells spans in each direction: 1, 2, 4, ...
        unet: where it is in a UNet; None in a network of one resolution.
    """

    index: int
    count: int
    attends: Attends
    factor: int
    unet: UNetPlace | None = None


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What a layer is about to compute for one half of classifier-free guidance.

    Attributes:
        layer: which layer.
        half: under which prompts.
        branches: what the rows are.
        size: (height, width) of the picture's cells, or (frames, height, width).
        q: (rows, heads, queries, dim) as the kernel gets them: after norms and rotary embedding.
        k: (rows, heads, keys, dim). Prompts of unequal length may be repeated to one length, which
            changes no result: the first `columns[b]` of branch b are its prompt, once.
        v: (rows, heads, keys, dim) values.
        picture: which queries are the picture's cells, row by row; in a layer that attends to the
            picture also which keys.
        prompt: which keys are the prompt's columns, in a joint layer also which queries; none in
            self-attention.
        columns: prompt length per branch; empty in self-attention and under the negative prompt.
        attend: (q, k, v) -> (rows, heads, queries, dim), the network's own kernel.
    """

    layer: AttentionLayer
    half: Half
    branches: Branches
    size: tuple[int, ...]
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    picture: slice
    prompt: slice
    columns: tuple[int, ...]
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

    def plain(self) -> torch.Tensor:
        """What the layer computes on its own: (rows, heads, queries, dim)."""
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
        layer: only one that attends to the prompt shows words; without a UNet every such one does.
        latent: (height, width) of the latent.
        factor: that of the layers wanted; the network's nearest is taken. 0 chooses: a quarter of
            the latent's resolution, but 16 cells on its shorter side where the network has them.
    """
    if layer.attends is Attends.SELF or layer.unet is None:
        return layer.attends is not Attends.SELF
    factors = layer.unet.factors
    fine = [f for f in factors if -(-min(latent) // f) >= _WORD_CELLS] or factors[:1]
    among, wanted = (factors, factor) if factor else (fine, _WORD_FACTOR)
    nearest = min(among, key=lambda f: max(f, wanted) / min(f, wanted))
    return layer.factor == nearest


def probabilities(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(dim)), materialised: (rows, heads, queries, keys).

    In float32 at least: half precision loses small probabilities, and sums of them.
    """
    precision = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(precision), k.to(precision)
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


def apply_probabilities(probabilities: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(rows, heads, queries, keys) maps over (rows, heads, keys, dim) values, in v's dtype."""
    return (probabilities @ v.to(probabilities.dtype)).to(v.dtype)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(rows, tokens, heads * dim) as (rows, heads, tokens, dim): a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(rows, heads, tokens, dim) as (rows, tokens, heads * dim)."""
    return x.transpose(1, 2).flatten(2)
