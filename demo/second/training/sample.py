"""Pictures from captions, with networks in training: no node, no sampler of the host.

The flow model: Euler steps on Flux's schedule for 256 tokens. The noise model: DDIM on evenly
spaced timesteps.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from demo.second.training import networks
from demo.second.training.vocabulary import Vocabulary

# Flux's mu for 256 image tokens.
flow_shift = 0.5


def flow_levels(steps: int) -> Tensor:
    """Levels 1 to 0, (steps + 1,): more of them near the noise, as Flux shifts them."""
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    bend = math.exp(flow_shift)
    return (bend * t / (1.0 + (bend - 1.0) * t)).float()


@torch.no_grad()
def latents(
    kind: str,
    network: nn.ModuleDict,
    vocabulary: Vocabulary,
    captions: list[str],
    steps: int,
    text_scale: float,
    seed: int,
) -> Tensor:
    """Latents (B, C, 16, 16) of the VAE's space, one for each caption.

    Args:
        network: the trained parts: `text` and `flow` or `unet`.
        text_scale: of classifier-free guidance against the empty caption.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(captions), networks.latent_channels[kind], 16, 16)
    noise = torch.randn(shape, generator=generator)
    texts = captions + [""] * len(captions)
    context = networks.encode_text(network["text"], vocabulary.rows(texts))

    def predict(x: Tensor, t: float) -> Tensor:
        both, times = torch.cat([x, x]), torch.full((2 * len(x),), t)
        if kind == "flow":
            found = network["flow"](both, times, context.clone())
        else:
            found = networks.predict_noise(network["unet"], both, times, context)
        with_text, without = found.chunk(2)
        return without + text_scale * (with_text - without)

    x = _euler(predict, noise, steps) if kind == "flow" else _ddim(predict, noise, steps)
    return networks.latent_format(kind).process_out(x)


def _euler(predict, x: Tensor, steps: int) -> Tensor:
    levels = flow_levels(steps).tolist()
    for t, after in zip(levels, levels[1:], strict=False):
        x = x + (after - t) * predict(x, t)
    return x


def _ddim(predict, x: Tensor, steps: int) -> Tensor:
    alpha_bars = networks.alpha_bars()
    times = np.linspace(999, 0, steps + 1).round().astype(int)[:-1]
    for index, time in enumerate(times):
        alpha = alpha_bars[time]
        later = alpha_bars[times[index + 1]] if index + 1 < steps else torch.ones(())
        noise = predict(x, float(time))
        clean = (x - (1.0 - alpha).sqrt() * noise) / alpha.sqrt()
        x = later.sqrt() * clean + (1.0 - later).sqrt() * noise
    return x


@torch.no_grad()
def pictures(vae: nn.Module, found: Tensor) -> np.ndarray:
    """Pictures (B, 128, 128, 3), float32, 0..1, of latents (B, C, 16, 16)."""
    parts = [networks.decode(vae, part) for part in found.split(16)]
    decoded = (torch.cat(parts) * 0.5 + 0.5).clamp(0.0, 1.0)
    return decoded.movedim(1, -1).numpy()
