"""How alike pictures are: in numbers, and as heat. Images (B, H, W, C) 0..1 in: no host."""

import math

import torch

from ...nmg_sampler import InvalidInput
from ...nmg_sampler.pixels import in_colour
from .overlay import heat

# What equal pictures are given, decibels: infinity is no number to go on with.
EQUAL_DB = 100.0
# The mean difference of red, green and blue that is shown brightest: a quarter of the range.
BRIGHTEST = 0.25
# The window of the structural similarity, pixels across (its authors').
_WINDOW = 11


def comparable(
    first: torch.Tensor, second: torch.Tensor, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches as float32 (B, H, W, 3) on the CPU, of one picture repeated to that of the other.

    Raises:
        InvalidInput: `second`, by this name, has another size or number of pictures.
    """
    first, second = (in_colour(image)[..., :3].float().cpu() for image in (first, second))
    counts = {len(first), len(second)}
    if first.shape[1:] != second.shape[1:] or len(counts - {1}) > 1:
        raise InvalidInput.of(
            name,
            "does not fit the other picture",
            _size(second),
            _size(first),
            "Scale or crop one of them to the size of the other.",
        )
    return tuple(image.expand(max(counts), -1, -1, -1) for image in (first, second))


def difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(B, H, W) the mean absolute difference of red, green and blue, 0..1."""
    return (first - second).abs().mean(-1)


def difference_heat(values: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) float32: differences as heat, the same colour for the same difference."""
    return torch.from_numpy(heat((values / BRIGHTEST).clamp(0, 1).numpy())).float()


def psnr(
    first: torch.Tensor, second: torch.Tensor, where: torch.Tensor | None = None
) -> list[float]:
    """Peak signal to noise ratio of each pair in dB, at most EQUAL_DB; where (B, H, W) is true."""
    squares = (first.double() - second.double()).square().mean(-1)
    errors = [float(mean) for mean in _means(squares, where)]
    least = 10 ** (-EQUAL_DB / 10)
    return [-10 * math.log10(max(error, least)) for error in errors]


def ssim(
    first: torch.Tensor, second: torch.Tensor, where: torch.Tensor | None = None
) -> list[float]:
    """Structural similarity of each pair, -1 to 1, over the pixels where (B, H, W) is true.

    As Wang et al. (IEEE TIP 13, 2004): a Gaussian window of 11 pixels with sigma 1.5, each channel
    on its own, windows that leave the picture left out. Of smaller pictures, or where no other
    pixels are asked for, those count as well.
    """
    # Not at the top: the host installs it, but can do without, and so can the other nodes.
    from kornia.metrics import ssim as ssim_map

    side = min(*first.shape[1:3], _WINDOW)
    window = side - 1 + side % 2
    planes = (image.double().movedim(-1, 1).contiguous() for image in (first, second))
    similarity = ssim_map(*planes, window, eps=0.0).mean(1)
    reach = _WINDOW // 2
    inner = torch.zeros(similarity.shape, dtype=torch.bool)
    inner[:, reach : first.shape[1] - reach, reach : first.shape[2] - reach] = True
    where = torch.ones_like(inner) if where is None else where
    counted = where & inner
    enough = counted.flatten(1).any(1)[:, None, None]
    return [float(mean) for mean in _means(similarity, torch.where(enough, counted, where))]


def _means(values: torch.Tensor, where: torch.Tensor | None) -> torch.Tensor:
    """(B,) the mean of each (H, W) where it counts."""
    if where is None:
        return values.flatten(1).mean(1)
    return (values * where).flatten(1).sum(1) / where.flatten(1).sum(1)


def _size(image: torch.Tensor) -> str:
    pictures = "1 picture" if len(image) == 1 else f"{len(image)} pictures"
    return f"{pictures} of {image.shape[2]} x {image.shape[1]} pixels"
