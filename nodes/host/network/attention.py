"""Attention editors in the host's UNet: which layers there are, and the door to each of them.

The door is `patches_replace`, put into the options of one prediction. A layer that another pack
replaces as well keeps what that pack adds: the edit is its result plus what the edit changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import (
    AttentionCall,
    AttentionEdit,
    AttentionLayer,
    Branches,
    Editor,
    InvalidInput,
)

Key = tuple[str, int, int]  # (stage, block, transformer block): how the host names a layer
AttentionLayers = dict[Key, tuple[AttentionLayer, AttentionLayer]]  # (self-, cross-attention)
_KINDS = {False: "attn1", True: "attn2"}


def attention_layers(network: torch.nn.Module) -> AttentionLayers:
    """The (self-, cross-)attention layers of a UNet in the order they are executed."""
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
    factors = tuple(sorted(set(places.values())))

    def layer(index: int, key: Key, cross: bool) -> AttentionLayer:
        return AttentionLayer(index, cross, key[0], places[key], len(places), factors)

    return {
        key: (layer(index, key, False), layer(index, key, True)) for index, key in enumerate(places)
    }


def check_editable(model: ModelPatcher, editor: Editor) -> None:
    """Raises InvalidInput unless this is an editor and can reach the model's attention."""
    if not isinstance(editor, Editor):
        raise InvalidInput.of(
            "editor",
            "is of a kind that this version cannot run",
            type(editor).__name__,
            "an editor of this pack",
            "Disconnect it, or update the pack.",
        )
    network = model.get_model_object("diffusion_model")
    if not has_attention(network):
        raise InvalidInput.of(
            "editor",
            "does not work with a model of this kind",
            type(network).__name__,
            "a UNet with self- and cross-attention over one picture: SD 1.x, SD 2.x or SDXL",
            "Load a checkpoint of one of these families, or disconnect the editor.",
        )


def has_attention(network: torch.nn.Module) -> bool:
    """Whether it is a UNet for still pictures whose attention can be reached."""
    layers = attention_layers(network) if isinstance(network, UNetModel) else {}
    return bool(layers) and not getattr(network, "num_frames", None) and _plain(network)


def _plain(network: torch.nn.Module) -> bool:
    """Whether every transformer is the one for still pictures."""
    found = {type(m) for m in network.modules() if isinstance(m, SpatialTransformer)}
    return found == {SpatialTransformer}


@dataclass(frozen=True, eq=False)
class EditedAttention:
    """One edit bound to the rows of one prediction.

    Attributes:
        edit: the library's change of attention.
        branches: what the rows of one chunk (one entry of the host's `cond_or_uncond`) are.
        columns: prompt length per branch, in embedding columns.
        layers: those of the network, see `attention_layers`.
    """

    edit: AttentionEdit
    branches: Branches
    columns: tuple[int, ...]
    layers: AttentionLayers

    @contextmanager
    def inside(self, network: torch.nn.Module, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Model options under which every layer that the edit wants comes through it.

        Raises:
            InvalidInput: on leaving, if a patch of another pack kept the edit from a layer.
        """
        transformer = options.get("transformer_options", {})
        replace = {k: dict(v) for k, v in transformer.get("patches_replace", {}).items()}
        ran: list[bool] = []
        missed: set[tuple[Key, bool]] = set()
        for key, pair in self.layers.items():
            for layer in filter(self.edit.wants, pair):
                kind = replace.setdefault(_KINDS[layer.cross], {})
                theirs = kind.get(key) or kind.get(key[:2])
                missed.add((key, layer.cross))
                kind[key] = self._door(
                    layer, theirs, lambda k=(key, layer.cross): missed.discard(k)
                )
        watch = network.register_forward_pre_hook(lambda *_: ran.append(True))
        try:
            yield {
                **options,
                "transformer_options": {**transformer, "patches_replace": replace},
            }
        finally:
            watch.remove()
        if ran and missed:  # a cache may answer without running the network at all
            raise InvalidInput.of(
                "editor",
                "was kept from the attention it edits",
                f"{len(missed)} layers replaced by another pack",
                "layers that come through the editor",
                "Remove the other patch from the model, or disconnect the editor.",
            )

    def _door(
        self,
        layer: AttentionLayer,
        theirs: Callable[..., torch.Tensor] | None,
        seen: Callable[[], None],
    ) -> Callable[..., torch.Tensor]:
        def replaced(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]
        ) -> torch.Tensor:
            seen()

            def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
                return optimized_attention(
                    q,
                    k,
                    v,
                    extra["n_heads"],
                    attn_precision=extra.get("attn_precision"),
                    transformer_options=extra,
                )

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
        chunks = extra["cond_or_uncond"]
        if len(q) != len(chunks) * self.branches.rows:
            raise InvalidInput.of(
                "editor",
                "got other rows than its branches",
                f"{len(q)} rows in {len(chunks)} parts",
                f"{self.branches.rows} rows in each part",
                "Remove the patch that splits the batch.",
            )
        _, _, *size = extra["activations_shape"]
        if q.shape[1] != prod(size):
            raise InvalidInput.of(
                "editor",
                "got tokens that are no picture",
                f"{q.shape[1]} of {size[0]} x {size[1]} cells",
                "one token per cell",
                "Remove the patch that merges tokens.",
            )
        results = []
        for chunk, kind in enumerate(chunks):
            rows = slice(chunk * self.branches.rows, (chunk + 1) * self.branches.rows)
            text = kind == 0
            columns = self.columns if layer.cross and text else ()
            call = AttentionCall(
                layer,
                text,
                self.branches,
                tuple(size),
                q[rows],
                k[rows],
                v[rows],
                extra["n_heads"],
                columns,
                attend,
            )
            results.append(self.edit(call))
        return results[0] if len(results) == 1 else torch.cat(results)
