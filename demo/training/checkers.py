"""Read a picture back: which shape, colours and background a 128 x 128 picture shows.

Numpy and scipy only. Pictures are (128, 128, 3), float, 0..1. Backgrounds are found by fitting
every pattern of `scenes`, shapes by comparing the object's outline, brought to a standard position
and area, with a bank of rotated templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from demo import scenes

phase_steps = 16
standard_px = 48
standard_area = 0.30
least_fit = 0.80
_object_contrast = 0.22


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        shape: best fitting word of `scenes.shapes`, "none" if no outline fits `least_fit`.
        colour: nearest word of `scenes.colours` to the object, "none" without an object.
        background: word of `scenes.colours`.
        background_type: word of `scenes.background_types`.
        fit: intersection over union with the best template, 0..1.
        object_mask: (128, 128) bool, pixels of the object.
    """

    shape: str
    colour: str
    background: str
    background_type: str
    fit: float
    object_mask: np.ndarray


def read_scene(image: np.ndarray) -> Reading:
    """Everything that `image` shows, without knowing where anything is."""
    background, kind, picture = fit_background(image, _always_background())
    foreground = _largest_region(np.linalg.norm(image - picture, axis=-1) > _object_contrast)
    if foreground.sum() < 200:
        return Reading("none", "none", background, kind, 0.0, foreground)
    core = ndimage.binary_erosion(foreground, iterations=3)
    core = core if core.any() else foreground
    colour = object_colour(image, core)
    # Pixels nearer to the object's colour than to the background: a sharper outline.
    paint = np.median(image[core], axis=0)
    nearer = np.linalg.norm(image - paint, axis=-1) < np.linalg.norm(image - picture, axis=-1)
    outline = ndimage.binary_fill_holes(_largest_region(nearer))
    shape, fit = fit_shape(outline)
    return Reading(shape if fit >= least_fit else "none", colour, background, kind, fit, outline)


def object_colour(image: np.ndarray, mask: np.ndarray) -> str:
    """Nearest colour word to the median of `image` inside `mask` (128, 128) bool."""
    if not mask.any():
        return "none"
    seen = np.median(image[mask], axis=0)
    names = list(scenes.colours)
    table = np.asarray([scenes.colours[name] for name in names])
    return names[int(np.linalg.norm(table - seen, axis=1).argmin())]


def background_colour(image: np.ndarray, mask: np.ndarray) -> str:
    """Colour word of the background, given the object's `mask` (128, 128) bool."""
    return fit_background(image, ~mask)[0]


def background_type(image: np.ndarray, mask: np.ndarray) -> str:
    """Type word of the background, given the object's `mask` (128, 128) bool."""
    return fit_background(image, ~mask)[1]


def fit_background(image: np.ndarray, where: np.ndarray) -> tuple[str, str, np.ndarray]:
    """Best background by squared error over the pixels `where` (128, 128) bool.

    Returns:
        Colour word, type word, and the fitted background (128, 128, 3).
    """
    kinds, bank = _patterns()
    seen = image[where].astype(np.float32)
    blends = bank[:, where.reshape(-1)]
    blend_seen = blends @ seen
    blend_sum, blend_square = blends.sum(1), np.square(blends).sum(1)
    best = (np.inf, "", 0)
    for name in scenes.colours:
        first, second = scenes.background_pair(name)
        step = second - first
        # sum |seen - first - blend * step|^2, expanded so that each pattern costs a few numbers
        errors = (
            np.square(seen - first).sum()
            - 2.0 * (blend_seen - blend_sum[:, None] * first) @ step
            + blend_square * (step @ step)
        )
        index = int(errors.argmin())
        if errors[index] < best[0]:
            best = (float(errors[index]), name, index)
    _, name, index = best
    first, second = scenes.background_pair(name)
    blend = bank[index].reshape(scenes.size_px, scenes.size_px, 1)
    return name, kinds[index], first * (1.0 - blend) + second * blend


def fit_shape(outline: np.ndarray) -> tuple[str, float]:
    """Shape word and intersection over union of the best template for `outline` (128, 128)."""
    seen = _standardised(outline.astype(np.float32)).reshape(-1)
    names, bank = _templates()
    overlap = np.minimum(bank, seen).sum(1) / np.maximum(bank, seen).sum(1)
    best = int(overlap.argmax())
    return names[best], float(overlap[best])


@lru_cache(maxsize=1)
def _patterns() -> tuple[list[str], np.ndarray]:
    """Types, and pattern shares (n, 128 * 128), of every background at every phase step."""
    phases = np.arange(phase_steps) / phase_steps
    wanted = [("plain", (0.0, 0.0)), ("gradient", (0.0, 0.0))]
    wanted += [("striped", (x, 0.0)) for x in phases]
    wanted += [("dotted", (x, y)) for x in phases for y in phases]
    bank = np.stack([scenes.pattern(kind, phase).reshape(-1) for kind, phase in wanted])
    return [kind for kind, _ in wanted], bank


@lru_cache(maxsize=1)
def _templates() -> tuple[list[str], np.ndarray]:
    """Words and standardised outlines (n, 48 * 48) of every shape, every 3 degrees."""
    names, outlines = [], []
    for shape in scenes.shapes:
        for rotation in np.arange(-18.0, 18.1, 3.0):
            cover = scenes.shape_coverage(shape, (64.0, 64.0), 40.0, float(rotation))
            names.append(shape)
            outlines.append(_standardised(cover).reshape(-1))
    return names, np.stack(outlines)


def _standardised(outline: np.ndarray) -> np.ndarray:
    """The outline resampled to (48, 48) with its centroid in the middle and a standard area."""
    total = outline.sum()
    ys, xs = np.indices(outline.shape)
    centre_y, centre_x = (outline * ys).sum() / total, (outline * xs).sum() / total
    scale = np.sqrt(total / (standard_area * standard_px**2))
    line = (np.arange(standard_px) + 0.5 - standard_px / 2) * scale
    at = np.meshgrid(centre_y + line, centre_x + line, indexing="ij")
    return ndimage.map_coordinates(outline, at, order=1, mode="constant")


@lru_cache(maxsize=1)
def _always_background() -> np.ndarray:
    """Pixels that no object of `scenes.random_scene` reaches: (128, 128) bool."""
    line = np.arange(scenes.size_px) + 0.5 - scenes.size_px / 2
    free = np.hypot(line[None, :], line[:, None]) > 68.0
    edge = int(scenes.margin_px) - 1
    free[:edge], free[-edge:], free[:, :edge], free[:, -edge:] = True, True, True, True
    return free


def _largest_region(foreground: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(ndimage.binary_opening(foreground, iterations=2))
    if count == 0:
        return np.zeros_like(foreground)
    return labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
