"""How far the attention of the targets is from that of the source, arXiv 2302.03027.

    L = sum over layers of 1 / (halves * heads)
        * sum over halves, heads, cells and words of (A - A_source)^2

A are cross-attention maps, the halves are those of classifier-free guidance. There is one L per
sample, so that a sample's gradient is the same in any batch.

The paper samples the source first and keeps its maps of all steps. Here both go side by side, and
what is kept is of one step. It is not the maps but the queries and keys that make them: that takes
less (for a picture of 512 x 512 and SD 1.x in half precision 50 MB instead of 66 MB) and loses
nothing, so that equal attention gives an L of exactly 0. It stays on the device: the gradient pass
takes more than that there, and a transfer per layer would wait.
"""

from collections.abc import Iterable

import torch

from ..contract.attention import Attends, AttentionCall, AttentionLayer, Half, probabilities
from ..errors import InvalidInput


class SourceAttention:
    """An attention edit that changes nothing and keeps what the source's maps are made of."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, Half], tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def halves(self) -> set[Half]:
        """Those that were predicted: one alone at a text scale of 1."""
        return {half for _, half in self.kept}

    def wants(self, layer: AttentionLayer) -> bool:
        return layer.attends is Attends.CROSS

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        place = call.layer.index, call.half
        if place in self.kept:
            raise InvalidInput.of(
                "negative",
                "has several parts, and pix2pix-zero cannot tell whose attention is whose",
                "more than one",
                "one prompt",
                "Take the combined prompts apart.",
            )
        self.kept[place] = call.q, call.k
        return call.plain()


class AttentionDistance:
    """An attention edit that changes nothing and adds up L of all rows, over one half.

    Args:
        source: of the same step.
        half: which one; a call may come with the other beside it.
    """

    def __init__(self, source: SourceAttention, half: Half) -> None:
        self.source, self.half = source, half
        self.sum = torch.zeros(())

    def wants(self, layer: AttentionLayer) -> bool:
        return layer.attends is Attends.CROSS

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        if call.half is not self.half:
            return call.plain()
        kept = self.source.kept[call.layer.index, self.half]
        q, k = (each.to(call.q.device) for each in kept)
        # Next to a longer prompt a shorter one is repeated, which its columns show once.
        columns = min(k.shape[2], call.k.shape[2])
        with torch.no_grad():
            theirs = probabilities(q, k[:, :, :columns])
        ours = probabilities(call.q, call.k[:, :, :columns])
        distance = (call.branches.split(ours) - theirs).square().sum()
        self.sum = self.sum.to(distance) + distance / (len(self.source.halves) * ours.shape[1])
        return call.plain()

    def total(self) -> torch.Tensor:
        """L of all rows: a scalar with its graph."""
        return self.sum


def map_bytes(layers: Iterable[tuple[int, int]], columns: int, rows: int) -> int:
    """Bytes of attention that one gradient pass holds: float32 maps and their distances.

    The network's own activations come on top.

    Args:
        layers: (cells, heads) of each cross-attention layer.
        columns: of the prompt.
        rows: targets times pictures.
    """
    return 2 * 4 * rows * columns * sum(cells * heads for cells, heads in layers)
