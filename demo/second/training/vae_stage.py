"""The autoencoder: pictures to latents and back, for either kind of model."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from demo.second.training import networks, pool

crop_px = 64
crop_share = 0.6
kl_weight = 3e-4
# Of the latents' standard deviation.
robust_noise = 0.03
held_out_count = 200


class VaeStage:
    """L1 + 2 MSE + a light KL, first on pieces of pictures, then on whole ones.

    A piece of 64 px costs a quarter of a picture: more different edges for the same work. The last
    part on whole pictures is for the layers that see all of it (attention, norms, rim).
    """

    def __init__(
        self, kind: str, pictures: pool.Pool, batch: int, generator: torch.Generator
    ) -> None:
        self.name = f"vae_{kind}"
        self.pictures = pictures
        self.batch = batch
        self.network = networks.make_vae(kind, generator)

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict]:
        pieces = progress < crop_share
        pictures = _drawn(rng, self.pictures, self.batch, pieces)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = networks.encode(self.network, pictures)
            noise = torch.randn(mean.shape, generator=generator)
            found = networks.decode(self.network, mean + noise * torch.exp(0.5 * log_variance))
        error = found - pictures
        mse = error.square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        loss = reconstruction_loss(error) + kl_weight * kl
        figures = {
            "psnr_db": float(-10.0 * torch.log10(mse.detach() / 4.0)),
            "kl": kl.item(),
            "latent_std": float(mean.detach().std()),
            "noise_std": float(torch.exp(0.5 * log_variance.detach()).mean()),
        }
        return loss, figures


class DecoderStage:
    """The decoder alone, on whole pictures and the encoder's fixed means."""

    def __init__(self, kind: str, vae: nn.Module, pictures: pool.Pool, batch: int) -> None:
        self.name = f"decoder_{kind}"
        self.pictures = pictures
        self.batch = batch
        self.vae = vae
        self.network = _Decoder(vae)

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict]:
        pictures = _drawn(rng, self.pictures, self.batch, pieces=False)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = networks.encode(self.vae, pictures)[0]
                # Sampled latents are never exact: a little noise teaches the decoder to bear it.
                noise = torch.randn(latents.shape, generator=generator)
                latents = latents + robust_noise * latents.std() * noise
            found = networks.decode(self.network, latents)
        error = found - pictures
        psnr = -10.0 * torch.log10(error.detach().square().mean() / 4.0)
        return reconstruction_loss(error), {"psnr_db": psnr.item()}


class _Decoder(nn.Module):
    """The half of a VAE that makes pictures, as a copy that takes gradients."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv).requires_grad_(True)
        self.decoder = copy.deepcopy(vae.decoder).requires_grad_(True)

    def install(self, vae: nn.Module) -> None:
        """Put these weights into `vae`."""
        vae.post_quant_conv.load_state_dict(self.post_quant_conv.state_dict())
        vae.decoder.load_state_dict(self.decoder.state_dict())


def reconstruction_loss(error: Tensor) -> Tensor:
    """L1 + 2 MSE of an error in units of half the range of values."""
    return error.abs().mean() + 2.0 * error.square().mean()


def _drawn(rng: np.random.Generator, pictures: pool.Pool, batch: int, pieces: bool) -> Tensor:
    """`batch` whole pictures (B, 3, 128, 128) or four times as many pieces (B, 3, 64, 64)."""
    chosen = np.sort(rng.integers(pictures.ready, size=batch * 4 if pieces else batch))
    drawn = pictures.entries[chosen]
    return to_tensor(_cropped(rng, drawn) if pieces else drawn)


def _cropped(rng: np.random.Generator, pictures: np.ndarray) -> np.ndarray:
    """A random piece (B, 64, 64, 3) of each picture."""
    corners = rng.integers(pictures.shape[1] - crop_px + 1, size=(len(pictures), 2))
    return np.stack(
        [
            picture[y : y + crop_px, x : x + crop_px]
            for picture, (y, x) in zip(pictures, corners, strict=True)
        ]
    )


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Pictures (B, H, W, 3) uint8 as (B, 3, H, W) float32 in -1..1."""
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1)
    return tensor.float().contiguous() / 127.5 - 1.0


@torch.no_grad()
def fold_latent_scale(vae: nn.Module, kind: str, pictures: np.ndarray) -> None:
    """Shift and scale the latents of `vae` in place so that the stock latent format fits.

    After it, the format's `process_in` gives mean 0 per channel and variance 1 over all channels.
    One scale for all channels: whitening each would give half the loss to fine detail.

    Args:
        pictures: (n, 128, 128, 3) uint8 to measure them on.
    """
    parts = [pictures[i : i + 32] for i in range(0, len(pictures), 32)]
    latents = torch.cat([networks.encode(vae, to_tensor(part))[0] for part in parts])
    mean = latents.mean(dim=(0, 2, 3))
    form = networks.latent_format(kind)
    target_std = 1.0 / float(form.scale_factor)
    target_mean = float(getattr(form, "shift_factor", 0.0))
    scale = target_std / float((latents - mean.view(1, -1, 1, 1)).std())
    quant, back = vae.quant_conv, vae.post_quant_conv
    channels = mean.numel()
    # new = (old - mean) * scale + target_mean, and back.
    quant.bias[:channels] -= mean
    quant.weight[:channels] *= scale
    quant.bias[:channels] *= scale
    quant.bias[:channels] += target_mean
    quant.bias[channels:] += 2.0 * float(np.log(scale))
    back.bias += back.weight[:, :, 0, 0] @ (mean - target_mean / scale)
    back.weight /= scale


@torch.no_grad()
def held_out_db(vae: nn.Module, count: int = held_out_count) -> np.ndarray:
    """PSNR (count,) in dB of pictures that training never sees, without noise, clamped to 0..1."""
    found = []
    for start in range(0, count, 20):
        part = range(start, min(start + 20, count))
        pictures = to_tensor(np.stack([pool.picture_at(i, pool.held_out_seed) for i in part]))
        back = networks.decode(vae, networks.encode(vae, pictures)[0]).clamp(-1.0, 1.0)
        mse = (back - pictures).square().mean(dim=(1, 2, 3)) / 4.0
        found.append((-10.0 * torch.log10(mse)).numpy())
    return np.concatenate(found)
