"""The three things that are trained: VAE, text encoder, diffusion model."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from demo import scenes
from demo.training import networks
from demo.training.vocabulary import Vocabulary


class VaeStage:
    """Pictures to latents and back: L1 + 2 MSE + a light KL, on fresh pictures."""

    name = "vae"

    def __init__(self, batch: int, device: torch.device, generator: torch.Generator) -> None:
        self.batch = batch
        self.device = device
        self.network = networks.make_vae(generator).to(device, memory_format=torch.channels_last)

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, dict]:
        pictures = picture_batch([scenes.random_scene(rng) for _ in range(self.batch)], self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            moments = self.network.quant_conv(self.network.encoder(pictures))
            mean, log_variance = moments.float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-20.0, 10.0)
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            latents = mean + noise * torch.exp(0.5 * log_variance)
            found = self.network.decoder(self.network.post_quant_conv(latents)).float()
        error = found - pictures
        mse = error.square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        psnr = -10.0 * torch.log10(mse.detach() / 4.0)
        loss = error.abs().mean() + 2.0 * mse + 3e-4 * kl
        return loss, {"psnr_db": psnr.item(), "kl": kl.item()}


@torch.no_grad()
def fold_latent_scale(vae: nn.Module, scale_factor: float, rng: np.random.Generator) -> None:
    """Shift and scale the latents of `vae` in place so that the stock latent format fits.

    After it, latents times `scale_factor` have mean 0 per channel and variance 1 over all channels.
    One scale for all channels: whitening each would give half the loss to fine detail.
    """
    device = next(vae.parameters()).device
    pictures = [scenes.random_scene(rng) for _ in range(512)]
    parts = [pictures[i : i + 32] for i in range(0, 512, 32)]
    latents = torch.cat([encode(vae, picture_batch(part, device)) for part in parts])
    mean = latents.mean(dim=(0, 2, 3))
    scale = 1.0 / (float((latents - mean.view(1, -1, 1, 1)).std()) * scale_factor)
    quant, back = vae.quant_conv, vae.post_quant_conv
    channels = mean.numel()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight /= scale
    quant.bias[:channels] -= mean
    quant.weight[:channels] *= scale
    quant.bias[:channels] *= scale
    quant.bias[channels:] += 2.0 * float(np.log(scale))


def encode(vae: nn.Module, pictures: Tensor) -> Tensor:
    """Latents (B, 4, 16, 16), float32, without noise, of pictures (B, 3, 128, 128) in -1..1."""
    moments = vae.quant_conv(vae.encoder(pictures))
    return moments.chunk(2, dim=1)[0].float()


def picture_batch(batch: list[scenes.Scene], device: torch.device) -> Tensor:
    """Pictures (B, 3, 128, 128), float32 in -1..1."""
    pictures = torch.from_numpy(np.stack([scenes.render(scene) for scene in batch]))
    # BHWC -> BCHW, stored as the channels-last layout that it already is.
    return (pictures.movedim(-1, 1) * 2.0 - 1.0).to(device)


class TextStage:
    """Text encoder and four attention readouts that name the scene's attributes.

    Without it the diffusion model ignores its text for its first tens of thousands of samples.
    """

    name = "text"

    def __init__(
        self,
        vocabulary: Vocabulary,
        batch: int,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.vocabulary = vocabulary
        self.batch = batch
        self.device = device
        text = networks.make_text(len(vocabulary.tokens), generator)
        readout = nn.ModuleDict(
            {key: _Readout(len(words), generator) for key, words in _words.items()}
        )
        self.network = nn.ModuleDict({"text": text, "readout": readout}).to(device)

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, dict]:
        batch = [scenes.random_scene(rng) for _ in range(self.batch)]
        rows = self.vocabulary.rows([scenes.caption(scene) for scene in batch]).to(self.device)
        context = networks.encode_text(self.network["text"], rows)
        loss, right = torch.zeros((), device=self.device), 1.0
        for key, words in _words.items():
            target = torch.tensor([words.index(getattr(scene, key)) for scene in batch])
            scores = self.network["readout"][key](context)
            loss = loss + nn.functional.cross_entropy(scores, target.to(self.device))
            right = min(right, float((scores.argmax(1).cpu() == target).float().mean()))
        return loss, {"worst_accuracy": right}


class DiffusionStage:
    """Noise prediction from latents of fresh pictures, levels and text; the text keeps training."""

    name = "unet"

    def __init__(
        self,
        vae: nn.Module,
        text: nn.Module,
        vocabulary: Vocabulary,
        batch: int,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.vae = vae
        self.vocabulary = vocabulary
        self.batch = batch
        self.device = device
        self.alpha_bars = networks.alpha_bars().to(device)
        self.scale_factor = networks.latent_scale_factor()
        unet = networks.make_unet(generator)
        self.network = nn.ModuleDict({"unet": unet, "text": text}).to(device)
        self.scenes: list[scenes.Scene] = []
        self.latents = torch.empty((0, 4, 16, 16))

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, dict]:
        batch, latents = self._draw(rng)
        captions = ["" if rng.random() < empty_share else scenes.caption(s) for s in batch]
        rows = self.vocabulary.rows(captions).to(self.device)
        steps = torch.from_numpy(_draw_timesteps(rng, len(batch))).to(self.device)
        alpha_bar = self.alpha_bars[steps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        noisy = alpha_bar.sqrt() * latents.to(self.device) + (1.0 - alpha_bar).sqrt() * noise
        with torch.autocast(self.device.type, torch.bfloat16):
            context = networks.encode_text(self.network["text"], rows)
            found = networks.predict(self.network["unet"], noisy, steps, context).float()
        error = (found - noise).square().mean(dim=(1, 2, 3))
        # 1 / alpha_bar makes it the loss of a velocity model: high levels, where shapes are
        # decided, would count for almost nothing in plain noise prediction.
        weight = (1.0 / alpha_bar.flatten()).clamp(max=max_weight) / mean_weight
        return (weight * error).mean(), _by_quarter(steps, error.detach())

    def _draw(self, rng: np.random.Generator) -> tuple[list[scenes.Scene], Tensor]:
        """A batch from a pool of latents, of which a quarter of a batch is new each time."""
        fresh = self.batch * 32 if not self.scenes else max(1, self.batch // pool_reuse)
        drawn = [scenes.random_scene(rng) for _ in range(fresh)]
        latents = torch.cat([self._encode(drawn[i : i + 32]) for i in range(0, len(drawn), 32)])
        self.scenes = (self.scenes + drawn)[-pool_size:]
        self.latents = torch.cat([self.latents, latents])[-pool_size:]
        chosen = rng.integers(len(self.scenes), size=self.batch)
        picked = [dataclasses.replace(self.scenes[i], form=_draw_form(rng)) for i in chosen]
        return picked, self.latents[torch.from_numpy(chosen)]

    @torch.no_grad()
    def _encode(self, batch: list[scenes.Scene]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = encode(self.vae, picture_batch(batch, self.device))
        return (latents * self.scale_factor).cpu()


empty_share = 0.1
max_weight = 10.0
mean_weight = 4.0
pool_size = 20_000
pool_reuse = 4

_words = {
    "shape": scenes.shapes,
    "colour": tuple(scenes.colours),
    "background": tuple(scenes.colours),
    "background_type": scenes.background_types,
}


class _Readout(nn.Module):
    """One learned query attends to the context; its answer is classified."""

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        width = networks.architecture["text"]["hidden_size"]
        self.query = nn.Parameter(torch.randn(width, generator=generator) * 0.1)
        self.classify = nn.Linear(width, classes)
        networks.initialise(self.classify, generator)

    def forward(self, context: Tensor) -> Tensor:
        share = torch.softmax(context @ self.query, dim=1)
        return self.classify((share.unsqueeze(1) @ context).squeeze(1))


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Training timesteps 0..999: half uniform, half in 350..949 where shapes are decided."""
    uniform = rng.integers(0, 1000, size=count)
    middle = rng.integers(350, 950, size=count)
    return np.where(rng.random(count) < 0.5, uniform, middle)


def _draw_form(rng: np.random.Generator) -> int:
    return int(rng.integers(len(scenes.caption_forms)))


def _by_quarter(steps: Tensor, error: Tensor) -> dict[str, float]:
    """Unweighted noise error by quarter of the timesteps, low levels first."""
    figures = {}
    for quarter in range(4):
        inside = torch.div(steps, 250, rounding_mode="floor") == quarter
        if inside.any():
            figures[f"eps_mse_q{quarter + 1}"] = float(error[inside].mean())
    return figures
