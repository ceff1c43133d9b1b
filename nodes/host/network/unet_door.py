"""The door to the attention of the host's UNet.

It is `patches_replace`, put into the options of one prediction. A layer that another pack replaces
as well keeps what that pack adds: the edit is its result plus what the edit changes.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from comfy.ldm.modules.attention import (
    BasicTransformerBlock,
    SpatialTransformer,
    optimized_attention,
)
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample

from ....nmg_sampler import (
    Attends,
    AttentionCall,
    AttentionEdit,
    AttentionLayer,
    Branches,
    Half,
    InvalidInput,
    UNetPlace,
)
from ....nmg_sampler.contract import merge_heads, split_heads

Block = tuple[str, int]  # (stage, block)
Key = tuple[str, int, int]  # (stage, block, transformer block): how the host names a layer
Replacement = Callable[..., torch.Tensor]  # what the host calls in the place of an attention
Depths = dict[int, Replacement]  # by transformer block
_KINDS = {Attends.SELF: "attn1", Attends.CROSS: "attn2"}
# What the host calls the halves of guidance, by its `cond_or_uncond`.
_HALVES = {0: Half.COND, 1: Half.UNCOND}


class UNetDoor:
    """To the attention of a UNet over one picture.

    Args:
        network: one that `leads_to` says yes to.
    """

    def __init__(self, network: UNetModel) -> None:
        self.network = network

    @staticmethod
    def leads_to(network: torch.nn.Module) -> bool:
        """Whether it is a UNet for still pictures whose attention can be reached."""
        if not isinstance(network, UNetModel) or getattr(network, "num_frames", None):
            return False
        # Every transformer is the one for still pictures.
        found = {type(m) for m in network.modules() if isinstance(m, SpatialTransformer)}
        return found == {SpatialTransformer} and bool(_places(network))

    @cached_property
    def places(self) -> dict[Key, tuple[AttentionLayer, AttentionLayer]]:
        """The (self-, cross-)attention layers by the host's names, as they are executed."""
        factors = _places(self.network)
        among = tuple(sorted(set(factors.values())))
        return {
            key: tuple(
                AttentionLayer(index, len(factors), attends, factor, UNetPlace(key[0], among))
                for attends in _KINDS
            )
            for index, (key, factor) in enumerate(factors.items())
        }

    @property
    def layers(self) -> list[AttentionLayer]:
        return [layer for pair in self.places.values() for layer in pair]

    def word_maps(self, latent: Sequence[int]) -> list[tuple[int, int]]:
        blocks = [m for m in self.network.modules() if isinstance(m, BasicTransformerBlock)]
        return [
            (prod(-(-side // cross.factor) for side in latent), block.attn2.heads)
            for (_, cross), block in zip(self.places.values(), blocks, strict=True)
        ]

    @contextmanager
    def inside(
        self,
        edit: AttentionEdit,
        branches: Branches,
        columns: tuple[int, ...],
        options: dict[str, Any],
        negatives: Collection[Hashable] = (),
    ) -> Iterator[dict[str, Any]]:
        transformer = options.get("transformer_options", {})
        replace = {k: dict(v) for k, v in transformer.get("patches_replace", {}).items()}
        bound = _Bound(edit, branches, columns, negatives)
        ran: list[bool] = []
        missed: set[tuple[Key, Attends]] = set()
        edited: dict[tuple[str, Key | Block], Depths] = {}
        for key, pair in self.places.items():
            for layer in filter(edit.wants, pair):
                name = _KINDS[layer.attends]
                kind = replace.setdefault(name, {})
                theirs = kind.get(key) or kind.get(key[:2])
                place = key, layer.attends
                missed.add(place)
                # The widest key that gets through: what a patch replaces for a pass of its own
                # (PAG replaces a whole block) has to come before the edit.
                where = key if key in kind else key[:2]
                depths = edited.setdefault((name, where), {})
                depths[key[2]] = bound.replacement(layer, theirs, lambda p=place: missed.discard(p))
        for (name, where), depths in edited.items():
            replace[name][where] = _by_depth(depths, replace[name].get(where))
        # Inside of what may be wrapped around the network.
        watch = self.network.time_embed.register_forward_pre_hook(lambda *_: ran.append(True))
        try:
            yield {
                **options,
                "transformer_options": {**transformer, "patches_replace": replace},
            }
        finally:
            watch.remove()
        if missed and not ran:
            raise InvalidInput.of(
                "editor",
                "was kept from the attention it edits",
                "a prediction without the network, by a cache of another pack",
                "a prediction by the network",
                "Remove the cache from the model, or disconnect the editor.",
            )
        if missed:
            raise InvalidInput.of(
                "editor",
                "was kept from the attention it edits",
                f"{len(missed)} layers replaced by another pack",
                "layers that come through the editor",
                "Remove the other patch from the model, or disconnect the editor.",
            )


def _places(network: UNetModel) -> dict[Key, int]:
    """The factor of every transformer block, in the order they are executed."""
    stages = (
        ("input", network.input_blocks),
        ("middle", [network.middle_block]),
        ("output", network.output_blocks),
    )
    places: dict[Key, int] = {}
    factor = 1
    for stage, blocks in stages:
        for number, block in enumerate(blocks):
            for module in block:
                if isinstance(module, Downsample):
                    factor *= 2
                elif isinstance(module, Upsample):
                    factor //= 2
                elif isinstance(module, SpatialTransformer):
                    for depth in range(len(module.transformer_blocks)):
                        places[stage, number, depth] = factor
    return places


def _by_depth(depths: Depths, otherwise: Replacement | None) -> Replacement:
    """The replacement of a block's attention, some of whose transformer blocks have their own."""

    def replaced(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]
    ) -> torch.Tensor:
        own = depths.get(extra["block_index"], otherwise)
        return _plain(q, k, v, extra) if own is None else own(q, k, v, extra)

    return replaced


def _plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]
) -> torch.Tensor:
    """Attention as the host has it in an unreplaced layer."""
    return optimized_attention(
        q,
        k,
        v,
        extra["n_heads"],
        attn_precision=extra.get("attn_precision"),
        transformer_options=extra,
    )


@dataclass(frozen=True, eq=False)
class _Bound:
    """One edit bound to the rows of one prediction.

    Attributes:
        edit: the library's change of attention.
        branches: what the rows of one chunk (one entry of the host's `cond_or_uncond`) are.
        columns: prompt length per branch, in embedding columns.
        negatives: as `Door.inside` has them.
    """

    edit: AttentionEdit
    branches: Branches
    columns: tuple[int, ...]
    negatives: Collection[Hashable]

    def replacement(
        self,
        layer: AttentionLayer,
        theirs: Replacement | None,
        seen: Callable[[], None],
    ) -> Replacement:
        """What the host calls in the place of a layer's attention, on (rows, tokens, width)."""

        def replaced(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]
        ) -> torch.Tensor:
            seen()

            def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
                return _plain(q, k, v, extra)

            edited = self._edited(layer, q, k, v, extra, attend)
            if theirs is None:
                return edited
            # What the other pack adds to the attention stays; what it computes anew is edited.
            return theirs(q, k, v, extra) + (edited - attend(q, k, v))

        return replaced

    def _edited(
        self,
        layer: AttentionLayer,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        extra: dict[str, Any],
        attend: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        chunks, heads = extra["cond_or_uncond"], extra["n_heads"]
        size = tuple(extra["activations_shape"][2:])
        self._check(len(q), max(len(chunks), len(extra["uuids"])), q.shape[1], size)
        q, k, v = (split_heads(each, heads) for each in (q, k, v))

        def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return split_heads(attend(*map(merge_heads, (q, k, v))), heads)

        cells, keys = slice(0, q.shape[2]), slice(0, k.shape[2])
        crosses = layer.attends is Attends.CROSS
        results = []
        for chunk, (kind, part) in enumerate(zip(chunks, extra["uuids"], strict=True)):
            rows = slice(chunk * self.branches.rows, (chunk + 1) * self.branches.rows)
            half = Half.UNCOND if part in self.negatives else _HALVES[kind]
            call = AttentionCall(
                layer,
                half,
                self.branches,
                size,
                q[rows],
                k[rows],
                v[rows],
                picture=cells,
                prompt=keys if crosses else slice(0, 0),
                columns=self.columns if crosses and half is Half.COND else (),
                attend=kernel,
            )
            results.append(merge_heads(self.edit(call)))
        return results[0] if len(results) == 1 else torch.cat(results)

    def _check(self, rows: int, chunks: int, tokens: int, size: tuple[int, ...]) -> None:
        """Raises InvalidInput if another pack has changed what the rows or the tokens are."""
        if rows != chunks * self.branches.rows:
            raise InvalidInput.of(
                "editor",
                "got other rows than its branches",
                f"{rows} rows in {chunks} parts",
                f"{self.branches.rows} rows in each part",
                "Remove the patch that splits the batch.",
            )
        if tokens != prod(size):
            raise InvalidInput.of(
                "editor",
                "got tokens that are no picture",
                f"{tokens} of {size[0]} x {size[1]} cells",
                "one token per cell",
                "Remove the patch that merges tokens.",
            )
