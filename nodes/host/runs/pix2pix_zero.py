"""pix2pix-zero in the host: how much memory it will take is said before it takes it."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock

from ....nmg_sampler import EditorRun, Run
from ....nmg_sampler.editors import Pix2PixZero, Pix2PixZeroRun, map_bytes
from ..network.attention import attention_layers


class HostPix2PixZero(Pix2PixZero):
    """The library's editor, with a line in the log when a run begins."""

    def begin(self, run: Run) -> EditorRun:
        if self.attention_scale > 0:
            predictor, shape = run.predictor, run.trajectory.shape
            layers = cross_attention_sizes(predictor.guider.inner_model.diffusion_model, shape[2:])
            rows = run.branches.targets * run.branches.pictures
            megabytes = map_bytes(layers, max(predictor.columns), rows) / 1e6
            logging.info(
                "pix2pix-zero: a step holds %.0f MB of attention maps, and the model's activations"
                " for the backward pass.",
                megabytes,
            )
        return _HostRun(self, run)


class _HostRun(Pix2PixZeroRun):
    """The library's run; a gradient that does not fit into memory is made anew by a smaller plan.

    Its loss grows in the middle of the network's pass, so the whole of it is made again.
    """

    def gradient(self, *args: Any) -> torch.Tensor:
        memory = self.run.predictor.gradients.memory
        return memory.attempt(lambda: super(_HostRun, self).gradient(*args))


def cross_attention_sizes(network: torch.nn.Module, latent: Sequence[int]) -> list[tuple[int, int]]:
    """(cells, heads) of each cross-attention layer of a UNet for a latent (height, width)."""
    blocks = [m for m in network.modules() if isinstance(m, BasicTransformerBlock)]
    layers = [cross for _, cross in attention_layers(network).values()]
    return [
        (math.prod(-(-side // layer.factor) for side in latent), block.attn2.heads)
        for layer, block in zip(layers, blocks, strict=True)
    ]
