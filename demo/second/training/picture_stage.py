"""The network that makes latents from noise and text: flow transformer or U-Net.

The text encoder keeps training with it. Latents come from a pool that may still be growing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from demo.second import scenes
from demo.second.training import flow_twin, networks, pool
from demo.second.training.vocabulary import Vocabulary

empty_share = 0.1
# Logit-normal levels (Esser et al., 2024); a mean above zero favours the levels of large forms.
level_mean = 0.3
max_weight = 10.0
mean_weight = 4.0
# Image tokens of a part of a picture, the share of training that sees parts, and how many of its
# steps see whole pictures all the same, so that the network never forgets them.
kept_tokens = 96
parts_until = 0.6
whole_share = 0.125


class _Data:
    """Latents in the model's space with the caption rows of their scenes."""

    def __init__(self, kind: str, folder_pool: pool.Pool, vocabulary: Vocabulary) -> None:
        self.pool = folder_pool
        self.vocabulary = vocabulary
        self.format = networks.latent_format(kind)
        self.scenes: dict[int, scenes.Scene] = {}

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Latents (count, C, 16, 16) and embedding rows (count, columns)."""
        chosen = np.sort(rng.integers(self.pool.ready, size=count))
        latents = torch.from_numpy(self.pool.entries[chosen]).float()
        captions = [
            "" if rng.random() < empty_share else self._caption(int(index), rng) for index in chosen
        ]
        return self.format.process_in(latents), self.vocabulary.rows(captions)

    def _caption(self, index: int, rng: np.random.Generator) -> str:
        if index not in self.scenes:
            self.scenes[index] = pool.scene_at(index)
        form = int(rng.integers(len(scenes.caption_forms)))
        return scenes.caption(dataclasses.replace(self.scenes[index], form=form))


class FlowStage:
    """Velocity prediction on the straight line from picture to noise.

    At first on a random part of the image tokens: twice the pictures in two thirds of the time.
    """

    name = "flow"

    def __init__(
        self,
        text: nn.Module,
        latents: pool.Pool,
        vocabulary: Vocabulary,
        batch: int,
        generator: torch.Generator,
    ) -> None:
        self.data = _Data("flow", latents, vocabulary)
        self.batch = batch
        self.network = nn.ModuleDict({"flow": networks.make_flow(generator), "text": text})

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict]:
        parts = progress < parts_until and rng.random() >= whole_share
        latents, rows = self.data.draw(rng, 2 * self.batch if parts else self.batch)
        count, _, height, width = latents.shape
        kept = _kept(rng, height * width) if parts else None
        levels = torch.sigmoid(torch.randn(count, generator=generator) + level_mean)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = torch.lerp(latents, noise, levels.view(-1, 1, 1, 1))
        target = noise - latents
        if kept is not None:
            target = target.flatten(2).transpose(1, 2)[:, kept]
        with torch.autocast("cpu", torch.bfloat16):
            context = networks.encode_text(self.network["text"], rows)
            found = flow_twin.velocity(self.network["flow"], noisy, levels, context, kept).float()
        error = (found - target).square().flatten(1).mean(dim=1)
        return error.mean(), by_quarter(levels, error.detach())


def _kept(rng: np.random.Generator, count: int) -> Tensor:
    """Indices of the image tokens that a step sees."""
    return torch.from_numpy(np.sort(rng.permutation(count)[:kept_tokens]))


def by_quarter(levels: Tensor, error: Tensor) -> dict[str, float]:
    """Unweighted error by quarter of the levels 0..1, low ones first."""
    figures = {}
    for quarter in range(4):
        inside = (levels * 4.0).long().clamp(max=3) == quarter
        if inside.any():
            figures[f"mse_q{quarter + 1}"] = float(error[inside].mean())
    return figures


class NoiseStage:
    """Noise prediction at the timesteps of Stable Diffusion 1.x."""

    name = "unet"

    def __init__(
        self,
        text: nn.Module,
        latents: pool.Pool,
        vocabulary: Vocabulary,
        batch: int,
        generator: torch.Generator,
    ) -> None:
        self.data = _Data("sd", latents, vocabulary)
        self.batch = batch
        self.alpha_bars = networks.alpha_bars()
        self.network = nn.ModuleDict({"unet": networks.make_unet(generator), "text": text})

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict]:
        latents, rows = self.data.draw(rng, self.batch)
        steps = torch.from_numpy(_draw_timesteps(rng, self.batch))
        alpha_bar = self.alpha_bars[steps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = alpha_bar.sqrt() * latents + (1.0 - alpha_bar).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            context = networks.encode_text(self.network["text"], rows)
            found = networks.predict_noise(self.network["unet"], noisy, steps, context).float()
        error = (found - noise).square().mean(dim=(1, 2, 3))
        # 1 / alpha_bar makes it the loss of a velocity model: high levels, where shapes are
        # decided, would count for almost nothing in plain noise prediction.
        weight = (1.0 / alpha_bar.flatten()).clamp(max=max_weight) / mean_weight
        return (weight * error).mean(), by_quarter(steps / 1000.0, error.detach())


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Training timesteps 0..999: half uniform, half in 350..949 where shapes are decided."""
    uniform = rng.integers(0, 1000, size=count)
    middle = rng.integers(350, 950, size=count)
    return np.where(rng.random(count) < 0.5, uniform, middle)
