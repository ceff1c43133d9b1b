"""Latents through the host's VAE, as its own VAE Decode does it."""

import comfy.latent_formats
import torch
from comfy.sd import VAE

from ....nmg_sampler import InvalidInput, Trajectory


def decode(vae: VAE, samples: torch.Tensor) -> torch.Tensor:
    """A LATENT's samples as pictures (B, H, W, 3) float32 0..1 on the CPU.

    Raises:
        InvalidInput: there is no VAE, or it is for latents of other channels.
    """
    check_vae(vae, samples)
    images = vae.decode(samples).float().cpu()
    # Frames of a video are pictures one after the other.
    return images.flatten(0, 1) if images.ndim == 5 else images


def as_encoded(vae: VAE, image: torch.Tensor) -> torch.Tensor:
    """The part of a picture that VAE Encode keeps: sides that fit no whole latent cell are cut."""
    return vae.vae_encode_crop_pixels(image)


def latent_of(trajectory: Trajectory, state: torch.Tensor) -> torch.Tensor:
    """A clean latent of the trajectory's model as a LATENT's samples, without the model.

    Raises:
        InvalidInput: the host does not know the trajectory's latent format.
    """
    name = trajectory.model.latent_format
    made = getattr(comfy.latent_formats, name, None)
    if made is None:
        raise InvalidInput.of(
            "trajectory",
            "is of a latent space that this ComfyUI does not know",
            repr(name),
            "one of its own latent formats",
            "Take the ComfyUI the trajectory was made with.",
        )
    return made().process_out(state.float())


def check_vae(vae: VAE, samples: torch.Tensor) -> None:
    """Raises InvalidInput unless the VAE is for latents (B, C, ...) of as many channels."""
    channels = samples.shape[1]
    found = "nothing" if vae is None else f"a VAE of {vae.latent_channels} channels"
    if vae is None or vae.latent_channels != channels:
        raise InvalidInput.of(
            "vae",
            "does not fit the trajectory",
            found,
            f"one of {channels} channels",
            "Connect the VAE that encoded the picture.",
        )
