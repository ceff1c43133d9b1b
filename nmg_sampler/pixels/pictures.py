"""What a picture is: (B, H, W, C) 0..1 of 1 to 4 channels."""

import torch

from ..errors import InvalidInput

_CHANNELS = (1, 2, 3, 4)  # grey, grey with alpha, colours, colours with alpha


def check_picture(name: str, image: torch.Tensor) -> None:
    """Raises InvalidInput, naming it so, unless this is a batch of pictures."""
    if image.ndim != 4 or image.shape[-1] not in _CHANNELS:
        expected = "(pictures, height, width, 1 to 4)"
        raise InvalidInput.of(
            name, "is no picture", tuple(image.shape), expected, "Connect an IMAGE."
        )


def in_colour(image: torch.Tensor) -> torch.Tensor:
    """A grey picture with its grey as red, green and blue; alpha stays. Any other as it is."""
    if image.shape[-1] > 2:
        return image
    return torch.cat([image[..., :1].expand(*image.shape[:-1], 3), image[..., 1:]], -1)


def black_under(image: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether a picture that is not black is exactly 0 wherever its mask is white.

    Args:
        image: (B, H, W, 1 to 4); alpha does not count.
        mask: (N, H, W) 0..1, one for all, or the first B for a picture each; fewer tell nothing.
    """
    black = (in_colour(image)[..., :3] == 0).all(-1)
    mask = mask[: len(black)]
    if len(mask) not in (1, len(black)):
        return False
    white = (mask >= 1).to(black.device).expand_as(black)
    emptied = (black | ~white).flatten(1).all(1) & white.flatten(1).any(1)
    return bool((emptied & ~black.flatten(1).all(1)).any())
