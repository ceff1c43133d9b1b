"""Masks of pictures, of any size, over latents."""

import comfy.utils
import torch

from ....nmg_sampler import InvalidInput
from ....nmg_sampler.pixels import WHITE


def fit_mask(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """A MASK or noise_mask of any size as (B, 1, ...) 0..1 over a latent of `shape`."""
    if mask is None:
        return None
    if not bool(torch.isfinite(mask).all()):
        raise InvalidInput.of(
            "mask", "is not finite", "NaN or infinity", "numbers from 0 to 1", "Check its source."
        )
    reduced = _reduce(mask.float().clamp(0, 1), shape[-2:])
    fitted = comfy.utils.reshape_mask(reduced, (shape[0], 1, *shape[2:]))
    fitted = fitted[:, :1].clamp(0, 1)
    return torch.where(fitted > WHITE, 1.0, fitted)


def _reduce(mask: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A mask no larger than `size` in its last two sides, each cell the mean of what it covers.

    The host reads four pixels per cell and no others: strokes between them would vanish.
    """
    given = mask.shape[-2:]
    smaller = [min(sides) for sides in zip(given, size, strict=True)]
    if smaller == list(given):
        return mask
    # In double precision the mean of equal numbers is that number, bit for bit.
    cells = torch.nn.functional.adaptive_avg_pool2d(mask.reshape(-1, 1, *given).double(), smaller)
    return cells.reshape(*mask.shape[:-2], *smaller).float()


def check_mask_count(mask: torch.Tensor | None, shape: torch.Size) -> None:
    """Raises InvalidInput unless a MASK is one for all latents of `shape` or one for each.

    The host would leave masks out, or start again with the first, without a word. Of videos masks
    are frames, spread over the frames there are, for all of them.
    """
    count = 1 if mask is None or len(shape) > 4 else len(mask.reshape(-1, *mask.shape[-2:]))
    pictures = shape[0]
    if count not in (1, pictures):
        raise InvalidInput.of(
            "mask",
            "does not fit the pictures",
            f"{count} masks for {pictures} pictures",
            "1" if pictures == 1 else f"1 or {pictures}",
            "Give one mask for all, or one for each.",
        )


def check_noise_mask_count(mask: torch.Tensor | None, shape: torch.Size) -> None:
    """Raises InvalidInput unless a noise mask is one for all latents of `shape`, or one for each.

    Of a video its masks are frames: as many as it has batches of them.
    """
    if mask is None:
        return
    if len(shape) > 4:
        count = len(mask) if mask.ndim > 4 else 1
    else:
        count = len(mask.reshape(-1, *mask.shape[-2:]))
    if count not in (1, shape[0]):
        raise InvalidInput.of(
            "latent_image",
            "has noise masks that do not fit its pictures",
            f"{count} noise masks for {shape[0]} pictures",
            "1" if shape[0] == 1 else f"1 or {shape[0]}",
            "Give Set Latent Noise Mask one mask for all, or one for each.",
        )


def latent_mask(mask: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """A LATENT's noise mask as a trajectory keeps it, on the CPU.

    Raises:
        InvalidInput: it is not finite, or not of as many pictures.
    """
    check_noise_mask_count(mask, shape)
    fitted = fit_mask(mask, shape)
    return None if fitted is None else fitted.cpu()
