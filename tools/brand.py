"""Draw the icon and the banner that the Comfy Registry shows for the pack.

    python tools/run.py tools/brand.py

Both show what the pack does: a picture goes to noise, state by state, and comes back edited.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
ICON_PX = 400
BANNER_PX = (1260, 540)
TITLE = "Noise Map Guidance"
LINE = "Edit real pictures. What the prompt does not mention stays."

SHARPNESS = 4  # drawn this much larger, then scaled down for smooth edges
CELLS = 26  # of noise across a disc
CONTRAST = 46
NIGHT, DUSK = (17, 19, 38), (34, 38, 74)
PAPER, FAINT, THREAD, RIM = (244, 245, 250), (167, 172, 204), (92, 99, 156), (244, 245, 250)
SKY, STRIPE = (58, 98, 196), (92, 136, 226)
BEFORE, AFTER = (250, 200, 60), (228, 68, 74)

Colour = tuple[int, int, int]
Point = tuple[float, float]
States = list[tuple[float, float, float]]

# Place on the arch in degrees, radius in pixels, share of clean picture.
ICON_STATES: States = [(180, 64, 1.0), (132, 43, 0.62), (90, 35, 0.0)]
BANNER_STATES: States = [
    (180, 86, 1.0),
    (137, 50, 0.85),
    (118.5, 44, 0.55),
    (104, 40, 0.22),
    (90, 38, 0.0),
]


def draw_icon() -> Image.Image:
    """A square: five states on an arch, the picture and its edit at its feet."""
    canvas = _night((ICON_PX, ICON_PX))
    _arch(canvas, (200, 268), (118, 170), ICON_STATES)
    return _smooth(canvas, (ICON_PX, ICON_PX))


def draw_banner() -> Image.Image:
    """21:9: nine states on a flat arch over the name."""
    canvas = _night(BANNER_PX)
    _arch(canvas, (630, 296), (510, 190), BANNER_STATES)
    _words(canvas, TITLE, (630, 318), 72, PAPER)
    _words(canvas, LINE, (630, 424), 30, FAINT)
    return _smooth(canvas, BANNER_PX)


def _arch(canvas: Image.Image, centre: Point, reach: Point, half: States) -> None:
    """States from the picture up to the noise, and the edit's down again as their mirror."""
    _thread(canvas, [_on_arch(centre, reach, angle) for angle in range(181)], 5)
    down = [(180 - angle, radius, clean) for angle, radius, clean in reversed(half[:-1])]
    for seed, (angle, radius, clean) in enumerate([*half, *down]):
        state = _state(AFTER if angle < 90 else BEFORE, clean, seed)
        _disc(canvas, _on_arch(centre, reach, angle), radius, state)


def _on_arch(centre: Point, reach: Point, angle: float) -> Point:
    turn = math.radians(angle)
    return centre[0] + reach[0] * math.cos(turn), centre[1] - reach[1] * math.sin(turn)


def _night(size: tuple[int, int]) -> Image.Image:
    """The ground: dark below, lighter above."""
    shade = np.linspace(0, 1, size[1])[:, None]
    column = np.array(DUSK) * (1 - shade) + np.array(NIGHT) * shade
    ground = Image.fromarray(column.round().astype(np.uint8)[:, None])
    return ground.resize((size[0] * SHARPNESS, size[1] * SHARPNESS), Image.Resampling.BILINEAR)


def _state(colour: Colour, clean: float, seed: int) -> np.ndarray:
    """A triangle on stripes as the state it is at this share of clean picture, in CELLS pixels.

    States mix by the square roots of the shares, as those of a diffusion model do.
    """
    picture = np.asarray(_picture(colour), np.float64)
    grain = np.random.default_rng(seed).standard_normal((CELLS, CELLS, 3)) * CONTRAST
    side = len(picture)
    noise = np.kron(grain, np.ones((side // CELLS, side // CELLS, 1)))
    middle = 128.0
    mixed = math.sqrt(clean) * (picture - middle) + math.sqrt(1 - clean) * noise
    return (middle + mixed).clip(0, 255).round().astype(np.uint8)


def _picture(colour: Colour) -> Image.Image:
    side = CELLS * 24
    picture = Image.new("RGB", (side, side), SKY)
    draw = ImageDraw.Draw(picture)
    band = side / 9
    for number in range(0, 9, 2):
        draw.rectangle((0, number * band, side, (number + 1) * band), STRIPE)
    corners = [(0.5, 0.18), (0.79, 0.70), (0.21, 0.70)]
    draw.polygon([(x * side, y * side) for x, y in corners], colour)
    return picture


def _disc(canvas: Image.Image, place: Point, radius: float, picture: np.ndarray) -> None:
    side = round(2 * radius * SHARPNESS)
    face = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    round_mask = Image.new("L", (side, side))
    ImageDraw.Draw(round_mask).ellipse((0, 0, side - 1, side - 1), 255)
    left, top = (round(value * SHARPNESS - side / 2) for value in place)
    rim = round((2.5 + radius / 24) * SHARPNESS)
    ImageDraw.Draw(canvas).ellipse(
        (left - rim, top - rim, left + side + rim, top + side + rim), RIM
    )
    canvas.paste(face, (left, top), round_mask)


def _thread(canvas: Image.Image, points: list[Point], width: int) -> None:
    scaled = [(x * SHARPNESS, y * SHARPNESS) for x, y in points]
    ImageDraw.Draw(canvas).line(scaled, THREAD, width * SHARPNESS, joint="curve")


def _words(canvas: Image.Image, text: str, top: Point, size: int, colour: Colour) -> None:
    font = ImageFont.load_default(size * SHARPNESS)
    place = (top[0] * SHARPNESS, top[1] * SHARPNESS)
    ImageDraw.Draw(canvas).text(place, text, colour, font, anchor="ma")


def _smooth(canvas: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The canvas at its final size, in a palette that keeps the file small."""
    small = canvas.resize(size, Image.Resampling.LANCZOS)
    return small.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> int:
    """The command line."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, drawing in (("icon", draw_icon()), ("banner", draw_banner())):
        drawing.save(IMAGES / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
