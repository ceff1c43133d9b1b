"""Read a picture back: the shape, colour, size and place of one or two objects, and the background.

Numpy and scipy only. Pictures are (128, 128, 3), float, 0..1. The background is found by fitting
every pattern of `scenes`, objects are the regions that differ from it, shapes are found by
comparing an object's outline, brought to a standard position and area, with rotated templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from demo.second import scenes

phase_steps = 16
standard_px = 48
standard_area = 0.30
least_fit = 0.80
least_area_px = 120
# Pixels on which backgrounds are compared: every third in each direction.
grid_step = 3
largest_error = 0.25
_object_contrast = 0.22


@dataclass(frozen=True)
class Found:
    """One object of a picture.

    Attributes:
        shape: best fitting word of `scenes.shapes`, "none" if no outline fits `least_fit`.
        colour: nearest word of `scenes.colours`.
        centre: (x, y) of the outline's box, pixels.
        radius: half the diagonal extent that the shape's template says, pixels.
        fit: intersection over union with the best template, 0..1.
        mask: (128, 128) bool, pixels of the object, holes included as the shape has them.
    """

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float
    fit: float
    mask: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        things: the objects, largest first; regions too small to be one are left out.
        background: word of `scenes.colours`.
        background_type: word of `scenes.background_types`.
    """

    things: tuple[Found, ...]
    background: str
    background_type: str


def read_scene(image: np.ndarray) -> Reading:
    """Everything that `image` shows, without knowing where anything is."""
    background, kind, picture = fit_background(image)
    differs = np.linalg.norm(image - picture, axis=-1) > _object_contrast
    things = [_read_thing(image, picture, region) for region in _regions(differs)]
    things.sort(key=lambda thing: -thing.radius)
    return Reading(tuple(things), background, kind)


def _read_thing(image: np.ndarray, picture: np.ndarray, region: np.ndarray) -> Found:
    core = ndimage.binary_erosion(region, iterations=2)
    core = core if core.any() else region
    paint = np.median(image[core], axis=0)
    # Pixels nearer to the object's colour than to the background: a sharper outline.
    nearer = np.linalg.norm(image - paint, axis=-1) < np.linalg.norm(image - picture, axis=-1)
    near = ndimage.binary_dilation(region, iterations=2)
    outline = _largest(nearer & near)
    outline = outline if outline.any() else region
    shape, fit = fit_shape(outline)
    ys, xs = np.nonzero(outline)
    centre = ((xs.min() + xs.max() + 1) / 2.0, (ys.min() + ys.max() + 1) / 2.0)
    radius = float(np.sqrt(outline.sum() / _unit_areas()[shape]))
    return Found(
        shape=shape if fit >= least_fit else "none",
        colour=_nearest_colour(paint),
        centre=(float(centre[0]), float(centre[1])),
        radius=radius,
        fit=fit,
        mask=outline,
    )


def _nearest_colour(paint: np.ndarray) -> str:
    names = list(scenes.colours)
    table = np.asarray([scenes.colours[name] for name in names])
    return names[int(np.linalg.norm(table - paint, axis=1).argmin())]


def fit_background(image: np.ndarray) -> tuple[str, str, np.ndarray]:
    """Best background of `image` by squared error, capped so that objects do not decide.

    Returns:
        Colour word, type word, and the fitted background (128, 128, 3).
    """
    kinds, bank = _patterns()
    grid = np.s_[grid_step // 2 :: grid_step, grid_step // 2 :: grid_step]
    seen = image[grid].reshape(-1, 3).astype(np.float32)
    blends = bank[:, grid[0], grid[1]].reshape(len(bank), -1)
    found = (np.inf, "", 0)
    for name in scenes.colours:
        first, second = scenes.background_pair(name)
        # |a + blend * b|^2 of each pixel under each pattern, expanded
        offset, step = first - seen, second - first
        errors = np.square(offset).sum(1) + blends * (2.0 * offset @ step + blends * (step @ step))
        costs = np.minimum(errors, largest_error**2).mean(axis=1)
        index = int(costs.argmin())
        if costs[index] < found[0]:
            found = (float(costs[index]), name, index)
    _, name, index = found
    first, second = scenes.background_pair(name)
    blend = bank[index][..., None]
    return name, kinds[index], first * (1.0 - blend) + second * blend


def fit_shape(outline: np.ndarray) -> tuple[str, float]:
    """Shape word and intersection over union of the best template for `outline` (128, 128)."""
    seen = _standardised(outline.astype(np.float32)).reshape(-1)
    names, bank = _templates()
    overlap = np.minimum(bank, seen).sum(1) / np.maximum(bank, seen).sum(1)
    best = int(overlap.argmax())
    return names[best], float(overlap[best])


def right(reading: Reading, scene: scenes.Scene) -> dict[str, bool]:
    """Which words of `scene`'s caption the picture obeys.

    Keys: `background`, `background_type`, `count` (as many objects), `colour` and `shape` (of every
    object), `place` (of the lone object, or of the first seen from the second), `size` (a lone
    object in the word's range, or the larger of two being the one that is called so), and `all`.
    Objects are matched so that most words are right. Words that the caption does not say are right.
    """
    found = {
        "background": reading.background == scene.background,
        "background_type": reading.background_type == scene.background_type,
        "count": len(reading.things) == len(scene.things),
    }
    orders = [list(reading.things)]
    if len(scene.things) == 2 and len(reading.things) == 2:
        orders.append(orders[0][::-1])
    best = max((_right_things(order, scene) for order in orders), key=lambda r: sum(r.values()))
    found.update(best)
    return {**found, "all": all(found.values())}


def _right_things(things: list[Found], scene: scenes.Scene) -> dict[str, bool]:
    enough = len(things) >= len(scene.things)
    pairs = list(zip(things, scene.things, strict=False))
    return {
        "colour": enough and all(seen.colour == thing.colour for seen, thing in pairs),
        "shape": enough and all(seen.shape == thing.shape for seen, thing in pairs),
        "place": enough and _right_place(things, scene),
        "size": enough and _right_size(things, scene),
    }


def _right_place(things: list[Found], scene: scenes.Scene) -> bool:
    if not scene.place:
        return True
    if len(scene.things) == 1:
        reference = (scenes.size_px / 2, scenes.size_px / 2)
    else:
        reference = things[1].centre
    dx, dy = things[0].centre[0] - reference[0], things[0].centre[1] - reference[1]
    sideways = ("right", "right of") if dx > 0 else ("left", "left of")
    upright = ("bottom", "below") if dy > 0 else ("top", "above")
    return scene.place in (sideways if abs(dx) > abs(dy) else upright)


def _right_size(things: list[Found], scene: scenes.Scene) -> bool:
    """Sizes of two objects are relative; of one, the border lies between the two ranges."""
    words = [thing.size for thing in scene.things]
    if not any(words):
        return True
    if len(words) == 1:
        small, large = scenes.radius_range_px["small"], scenes.radius_range_px["large"]
        border = (small[1] + large[0]) / 2.0
        return (things[0].radius > border) == (words[0] == "large")
    first_larger = words[0] == "large" or words[1] == "small"
    return (things[0].radius > things[1].radius) == first_larger


@lru_cache(maxsize=1)
def _patterns() -> tuple[list[str], np.ndarray]:
    """Types, and pattern shares (n, 128, 128), of every background at every phase step."""
    phases = np.arange(phase_steps) / phase_steps
    wanted = [("plain", (0.0, 0.0)), ("gradient", (0.0, 0.0))]
    wanted += [("striped", (x, 0.0)) for x in phases]
    wanted += [("dotted", (x, y)) for x in phases for y in phases]
    bank = np.stack([scenes.pattern(kind, phase) for kind, phase in wanted])
    return [kind for kind, _ in wanted], bank


@lru_cache(maxsize=1)
def _templates() -> tuple[list[str], np.ndarray]:
    """Words and standardised outlines (n, 48 * 48) of every shape, every 3 degrees."""
    names, outlines = [], []
    for shape in scenes.shapes:
        for rotation in np.arange(-15.0, 15.1, 3.0):
            cover = scenes.shape_coverage(shape, (64.0, 64.0), 40.0, float(rotation))
            names.append(shape)
            outlines.append(_standardised(cover).reshape(-1))
    return names, np.stack(outlines)


@lru_cache(maxsize=1)
def _unit_areas() -> dict[str, float]:
    """Area of each shape of radius 1."""
    return {
        shape: float(scenes.shape_coverage(shape, (64.0, 64.0), 40.0, 0.0).sum()) / 40.0**2
        for shape in scenes.shapes
    }


def _standardised(outline: np.ndarray) -> np.ndarray:
    """The outline resampled to (48, 48) with its centroid in the middle and a standard area."""
    total = outline.sum()
    ys, xs = np.indices(outline.shape)
    centre_y, centre_x = (outline * ys).sum() / total, (outline * xs).sum() / total
    scale = np.sqrt(total / (standard_area * standard_px**2))
    line = (np.arange(standard_px) + 0.5 - standard_px / 2) * scale
    at = np.meshgrid(centre_y + line, centre_x + line, indexing="ij")
    return ndimage.map_coordinates(outline, at, order=1, mode="constant")


def _regions(foreground: np.ndarray) -> list[np.ndarray]:
    """Connected regions (128, 128) bool that are large enough to be objects."""
    labels, count = ndimage.label(ndimage.binary_opening(foreground, iterations=2))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == i for i in range(1, count + 1) if areas[i] >= least_area_px]


def _largest(foreground: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(ndimage.binary_opening(foreground, iterations=1))
    if count == 0:
        return np.zeros_like(foreground)
    return labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
