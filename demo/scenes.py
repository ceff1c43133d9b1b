"""Scenes of the demo model: a description becomes a picture, a caption and a true edit mask.

Numpy only. Pictures are 128 x 128 px, positions and lengths are in pixels, angles in degrees,
colours are sRGB in 0..1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

size_px = 128

shapes = ("circle", "square", "triangle", "star", "heart", "cross")

# "cyan" is two tokens of the CLIP tokenizer, every other word is one: kept as a test case.
colours = {
    "red": (0.86, 0.12, 0.14),
    "green": (0.12, 0.60, 0.20),
    "blue": (0.12, 0.22, 0.85),
    "yellow": (0.96, 0.88, 0.15),
    "orange": (0.97, 0.52, 0.08),
    "purple": (0.50, 0.16, 0.66),
    "cyan": (0.25, 0.82, 0.90),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
}

background_types = ("plain", "striped", "dotted", "gradient")

caption_forms = (
    "{a_colour} {shape} on a {type} {background} background",
    "{colour} {shape}, {type} {background} background",
    "a picture of {a_colour} {shape} on a {type} {background} background",
    "a {type} {background} background with {a_colour} {shape}",
    "there is {a_colour} {shape} on a {type} {background} background",
    "the {shape} is {colour} and the background is {type} {background}",
)

radius_range_px = (32.0, 46.0)
jitter_px = 16.0
margin_px = 3.0
max_rotation_deg = 15.0
period_px = 32.0
_editable = ("shape", "colour", "background", "background_type")


@dataclass(frozen=True)
class Scene:
    """One object on one background.

    Attributes:
        shape: word in `shapes`.
        colour: word in `colours`, the object's.
        background: word in `colours`, never `colour`.
        background_type: word in `background_types`.
        centre: (x, y) of the object, pixels from the top left corner.
        radius: pixels from the centre to the farthest point of the object.
        rotation: degrees, counter-clockwise on screen.
        phase: (x, y) shift of the background pattern, 0..1 of its period.
        form: index into `caption_forms`.
    """

    shape: str
    colour: str
    background: str
    background_type: str
    centre: tuple[float, float]
    radius: float
    rotation: float
    phase: tuple[float, float]
    form: int = 0

    def __post_init__(self) -> None:
        _check_word("shape", self.shape, shapes)
        _check_word("colour", self.colour, tuple(colours))
        _check_word("background", self.background, tuple(colours))
        _check_word("background_type", self.background_type, background_types)
        if self.colour == self.background:
            raise ValueError(
                f"Scene: background hides the object. Got '{self.background}' for both; "
                "expected two colours. Choose another background or colour."
            )
        if not 0 <= self.form < len(caption_forms):
            raise ValueError(
                f"Scene: form is unknown. Got {self.form}; "
                f"expected 0 to {len(caption_forms) - 1}. Choose one of caption_forms."
            )


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene with every attribute drawn from `rng`, the object fully inside the frame."""
    names = list(colours)
    colour, background = rng.choice(len(names), size=2, replace=False)
    radius = float(rng.uniform(*radius_range_px))
    reach = min(jitter_px, size_px / 2 - margin_px - radius)
    x, y = size_px / 2 + rng.uniform(-reach, reach, size=2)
    phase_x, phase_y = rng.uniform(0.0, 1.0, size=2)
    return Scene(
        shape=shapes[rng.integers(len(shapes))],
        colour=names[colour],
        background=names[background],
        background_type=background_types[rng.integers(len(background_types))],
        centre=(float(x), float(y)),
        radius=radius,
        rotation=float(rng.uniform(-max_rotation_deg, max_rotation_deg)),
        phase=(float(phase_x), float(phase_y)),
        form=int(rng.integers(len(caption_forms))),
    )


def caption(scene: Scene) -> str:
    """The scene in words, in its caption form."""
    article = "an" if scene.colour[0] in "aeiou" else "a"
    return caption_forms[scene.form].format(
        a_colour=f"{article} {scene.colour}",
        colour=scene.colour,
        shape=scene.shape,
        type=scene.background_type,
        background=scene.background,
    )


def render(scene: Scene) -> np.ndarray:
    """The picture of `scene`: (128, 128, 3) float32 in 0..1, antialiased."""
    cover = coverage(scene)[..., None]
    colour = np.asarray(colours[scene.colour], np.float32)
    return background_picture(scene) * (1.0 - cover) + colour * cover


def background_picture(scene: Scene) -> np.ndarray:
    """The background alone: (128, 128, 3) float32 in 0..1."""
    first, second = background_pair(scene.background)
    blend = pattern(scene.background_type, scene.phase)[..., None]
    return first * (1.0 - blend) + second * blend


def background_pair(background: str) -> tuple[np.ndarray, np.ndarray]:
    """The named colour and the second tone that patterns mix it with, each (3,) float32."""
    first = np.asarray(colours[background], np.float32)
    bright = float(first @ np.asarray((0.299, 0.587, 0.114), np.float32)) > 0.45
    # Towards black for bright colours and towards white for dark ones keeps the hue nameable.
    second = first * 0.55 if bright else first + (1.0 - first) * 0.45
    return first, second.astype(np.float32)


def coverage(scene: Scene) -> np.ndarray:
    """Part of each pixel that the object covers: (128, 128) float32 in 0..1."""
    return shape_coverage(scene.shape, scene.centre, scene.radius, scene.rotation)


def shape_coverage(
    shape: str, centre: tuple[float, float], radius: float, rotation: float
) -> np.ndarray:
    """`coverage` for a bare shape; lengths in pixels, `rotation` in degrees."""
    xs, ys = _pixel_grid()
    angle = np.float32(np.deg2rad(rotation))
    dx, dy = xs - np.float32(centre[0]), ys - np.float32(centre[1])
    x = np.cos(angle) * dx - np.sin(angle) * dy
    y = np.sin(angle) * dx + np.cos(angle) * dy
    distance_px = _distances[shape](x / np.float32(radius), y / np.float32(radius)) * radius
    return np.clip(0.5 - distance_px, 0.0, 1.0).astype(np.float32)


def edit(scene: Scene, attribute: str, value: str) -> Scene:
    """The scene with one word changed: shape, colour, background or background_type."""
    _check_word("attribute", attribute, _editable)
    return dataclasses.replace(scene, **{attribute: value})


def mask(scene: Scene, edited: Scene) -> np.ndarray:
    """Pixels that may differ between the two pictures: (128, 128) bool.

    The object (both objects, if its form changes) for an object edit, everything that the object
    does not cover fully for a background edit.
    """
    before, after = coverage(scene), coverage(edited)
    changed = np.zeros(before.shape, bool)
    if _object_of(scene) != _object_of(edited):
        changed |= (before > 0.0) | (after > 0.0)
    if _background_of(scene) != _background_of(edited):
        changed |= (before < 1.0) | (after < 1.0)
    return changed


def _object_of(scene: Scene) -> tuple:
    return (scene.shape, scene.colour, scene.centre, scene.radius, scene.rotation)


def _background_of(scene: Scene) -> tuple:
    return (scene.background, scene.background_type, scene.phase)


def _check_word(name: str, got: str, expected: tuple[str, ...]) -> None:
    if got not in expected:
        raise ValueError(
            f"Scene: {name} is unknown. Got '{got}'; expected one of {', '.join(expected)}. "
            "Use one of these words."
        )


def _pixel_grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x as (1, 128), y as (128, 1), float32."""
    line = np.arange(size_px, dtype=np.float32) + np.float32(0.5)
    return line[None, :], line[:, None]


def pattern(background_type: str, phase: tuple[float, float]) -> np.ndarray:
    """Share of the second tone of a background: (128, 128) float32 in 0..1."""
    xs, ys = _pixel_grid()
    if background_type == "striped":
        blend = _soft_step(np.abs(_wrapped(xs, phase[0])) - period_px / 4) + 0 * ys
    elif background_type == "dotted":
        dx, dy = _wrapped(xs, phase[0]), _wrapped(ys, phase[1])
        blend = _soft_step(np.sqrt(dx * dx + dy * dy) - period_px * 0.3)
    elif background_type == "gradient":
        blend = ys / np.float32(size_px) + 0 * xs
    else:
        blend = np.zeros((size_px, size_px))
    return blend.astype(np.float32)


def _wrapped(line: np.ndarray, phase: float) -> np.ndarray:
    """Signed pixels to the nearest pattern centre, in -period/2..period/2."""
    return (line + np.float32(phase * period_px)) % period_px - period_px / 2


def _soft_step(distance_px: np.ndarray) -> np.ndarray:
    return np.clip(0.5 - distance_px, 0.0, 1.0)


# Distances below are in units of the radius, negative inside; y points down.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(0.9)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ax, ay = np.abs(x), np.abs(y)
    arm, width = np.float32(0.96), np.float32(0.30)
    return np.minimum(np.maximum(ax - arm, ay - width), np.maximum(ay - arm, ax - width))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact distance to a square tip with two half discs, scaled to fit the unit circle."""
    scale = np.float32(0.65)
    px, py = np.abs(x) * scale, (np.float32(0.88) - y) * scale
    lobe = np.sqrt((px - 0.25) ** 2 + (py - 0.75) ** 2) - np.float32(np.sqrt(2.0) / 4.0)
    foot = np.float32(0.5) * np.maximum(px + py, 0.0)
    tip = np.sqrt(np.minimum(px**2 + (py - 1.0) ** 2, (px - foot) ** 2 + (py - foot) ** 2))
    return np.where(px + py > 1.0, lobe, tip * np.sign(px - py)) / scale


def _polygon(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact signed distance to a closed polygon with `corners` (n, 2)."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    squared = np.full(shape, np.inf, np.float32)
    inside = np.zeros(shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        squared = np.minimum(squared, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (wx < ex * wy / ey)
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)


def _corners(count: int, radii: tuple[float, ...]) -> np.ndarray:
    """`count` points round the centre, first one straight up, radii repeated in turn."""
    angle = np.arange(count) * 2.0 * np.pi / count
    radius = np.resize(np.asarray(radii), count)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1).astype(np.float32)


_triangle_corners = _corners(3, (1.0,))
_star_corners = _corners(10, (1.0, 0.42))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(_triangle_corners, x, y)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(_star_corners, x, y)


_distances = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}
