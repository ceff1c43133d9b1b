"""Pictures whose sides do not fit the latent grid: padded instead of cut off, and cropped back."""

from dataclasses import dataclass

import numpy as np
import torch

from .. import checks
from ..errors import InvalidInput

# By their names in numpy.pad: the picture mirrored at its border, or its last pixel repeated.
FILLS = ("reflect", "edge")


@dataclass(frozen=True)
class Padding:
    """What was added around a picture, in pixels.

    Attributes:
        height, width: of the picture without it.
        top, left, bottom, right: rows and columns added.
    """

    height: int
    width: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) with the padding."""
        return self.top + self.height + self.bottom, self.left + self.width + self.right

    @property
    def empty(self) -> bool:
        """Whether nothing is added."""
        return self.padded == (self.height, self.width)

    def pad(self, image: torch.Tensor, fill: str = "reflect") -> torch.Tensor:
        """(B, height, width, ...) with the padding: `image` itself if there is none to add.

        Args:
            image: pictures (B, height, width, C) or masks (B, height, width).
            fill: one of FILLS, also where the padding is wider than the picture.
        """
        if self.empty:
            return image
        rows = _places(self.height, self.top, self.bottom, fill)
        columns = _places(self.width, self.left, self.right, fill)
        taken = image.index_select(1, rows.to(image.device))
        return taken.index_select(2, columns.to(image.device))

    def crop(self, name: str, image: torch.Tensor) -> torch.Tensor:
        """The opposite of `pad`, bit for bit.

        Raises:
            InvalidInput: `image`, by this name, does not have the size with the padding.
        """
        if tuple(image.shape[1:3]) != self.padded:
            height, width = self.padded
            raise InvalidInput.of(
                name,
                "does not have the size that Pad To Grid made",
                f"{image.shape[2]}x{image.shape[1]}",
                f"{width}x{height}",
                "Crop before anything resizes it, and use the padding of this picture.",
            )
        if self.empty:
            return image
        inside = image[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return inside.contiguous()


def padding_to_grid(height: int, width: int, multiple: int, centred: bool = False) -> Padding:
    """The least padding that makes both sides multiples of `multiple`.

    Args:
        height, width: of the picture.
        multiple: 1 or more.
        centred: on both sides, the odd pixel at bottom and right; else at bottom and right alone.

    Raises:
        InvalidInput: multiple is no size.
    """
    checks.count("multiple", multiple, 1, "It counts pixels; 8 fits every VAE of SD.")
    added = -height % multiple, -width % multiple
    top, left = (each // 2 if centred else 0 for each in added)
    return Padding(height, width, top, left, added[0] - top, added[1] - left)


def _places(length: int, before: int, after: int, fill: str) -> torch.Tensor:
    """Which row or column of the picture each of the padded picture is."""
    return torch.from_numpy(np.pad(np.arange(length), (before, after), mode=fill))
