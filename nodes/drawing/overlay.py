"""Attention maps laid over pictures, to be looked at."""

import numpy as np

from .lettering import centred, width_of

# Heat from cold to hot: the value, then red, green, blue, all 0..1. Dark to bright throughout, so
# that it reads without colour as well.
_HEAT = np.array(
    [
        (0.0, 0.05, 0.03, 0.30),
        (0.3, 0.42, 0.06, 0.56),
        (0.6, 0.89, 0.29, 0.25),
        (0.8, 0.98, 0.66, 0.14),
        (1.0, 1.00, 0.98, 0.70),
    ]
)
_LUMINANCE = np.array((0.299, 0.587, 0.114))
# The picture shows through everywhere, most where the map is cold.
_COVER_COLD, _COVER_HOT = 0.5, 0.75
_LEAST_STRIP_PX = 18


def heat(values: np.ndarray) -> np.ndarray:
    """Colours of a map: (H, W) 0..1 to (H, W, 3) 0..1."""
    channels = [np.interp(values, _HEAT[:, 0], _HEAT[:, channel]) for channel in (1, 2, 3)]
    return np.stack(channels, axis=-1)


def overlay(picture: np.ndarray, values: np.ndarray, word: str) -> np.ndarray:
    """A picture in grey under the heat of a map, so that all colour is heat; its word below it.

    Args:
        picture: (H, W, 3) 0..1.
        values: (H, W) 0..1.
        word: what the map is of.

    Returns:
        (H + strip, W, 3) float32 0..1; the strip is as high for every word.
    """
    cover = (_COVER_COLD + (_COVER_HOT - _COVER_COLD) * values)[..., None]
    grey = (picture @ _LUMINANCE)[..., None]
    mixed = grey * (1 - cover) + heat(values) * cover
    strip = _strip(word, picture.shape[1], max(_LEAST_STRIP_PX, picture.shape[0] // 10))
    return np.concatenate([mixed, strip]).astype(np.float32)


def _strip(word: str, width: int, height: int) -> np.ndarray:
    """(height, width, 3) 0..1: the word in the middle, smaller if it would not fit."""
    size = 0.7 * height
    smaller = min(1.0, 0.95 * width / max(width_of(word, size), 1.0))
    # There is no font below half a pixel.
    return np.asarray(centred(word, (width, height), max(0.5, size * smaller), "black")) / 255
