"""Line charts, drawn with what the host installs. Numbers in, array out: no host."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .lettering import FAINT, PAPER, centred, font, width_of

_WIDTH, _HEIGHT = 800, 480  # pixels of the finished chart
_FINE = 3  # PIL draws hard edges: the chart is drawn so many times larger and scaled down
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 84, 64  # of the frame to the edge, pixels
_INK, _GRID = (30, 30, 30), (226, 226, 226)
# Told apart by people who do not see all colours too (Okabe and Ito), and by their lightness.
_COLOURS = ((0, 95, 160), (220, 115, 0), (0, 140, 105))
_TEXT, _TITLE = 16, 19  # font sizes in pixels


class Line(NamedTuple):
    """One line of a chart: what it is of, and its points from left to right."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(title: str, x_title: str, y_title: str, lines: Sequence[Line]) -> np.ndarray:
    """Up to three lines over axes that have a 0 on them: (480, 800, 3) float32 0..1.

    Args:
        title, x_title, y_title: stand above, below and upright on the left.
        lines: at least one, each of at least one point: whole numbers across, finite ones up.
    """
    across = _Scale([x for line in lines for x in line.x], _LEFT, _WIDTH - _RIGHT, 10, 1)
    up = _Scale([y for line in lines for y in line.y], _HEIGHT - _BOTTOM, _TOP, 6)
    image = Image.new("RGB", (_WIDTH * _FINE, _HEIGHT * _FINE), PAPER)
    draw = ImageDraw.Draw(image)
    _frame(draw, across, up)
    _text(draw, (_LEFT, 26), title, _TITLE, _INK, "lm")
    _text(draw, ((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 20), x_title, _TEXT, FAINT, "mm")
    _upright(image, y_title)
    _legend(draw, [line.name for line in lines])
    for line, colour in zip(lines, _COLOURS, strict=False):
        points = [
            (_FINE * across.place(x), _FINE * up.place(y))
            for x, y in zip(line.x, line.y, strict=True)
        ]
        draw.line(points, colour, round(2.5 * _FINE), "curve")
        _dot(draw, points[-1], colour)
    fine = image.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    return np.asarray(fine, np.float32) / 255


class _Scale:
    """Numbers to places along one axis, with round numbers to write on it."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, most: int, least: float = 0
    ) -> None:
        low, high = min(0.0, *values), max(0.0, *values)
        self.step = _round_step(max(least, (high - low) / most))
        self.first = math.floor(low / self.step + 1e-9)
        last = max(math.ceil(high / self.step - 1e-9), self.first + 1)
        self.low, self.high = self.first * self.step, last * self.step
        self.start, self.end = start, end
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        self.ticks = [
            (n * self.step, f"{n * self.step:.{decimals}f}") for n in range(self.first, last + 1)
        ]

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, not below `least`; 1 if that is 0."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least * (1 - 1e-9))


def _frame(draw: ImageDraw.ImageDraw, across: _Scale, up: _Scale) -> None:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value, words in up.ticks:
        place = up.place(value)
        _rule(draw, (_LEFT, place), (right, place), _GRID)
        _text(draw, (_LEFT - 10, place), words, _TEXT, _INK, "rm")
    for value, words in across.ticks:
        place = across.place(value)
        _rule(draw, (place, bottom), (place, bottom + 6), _INK)
        _text(draw, (place, bottom + 20), words, _TEXT, _INK, "mm")
    _rule(draw, (_LEFT, up.place(0)), (right, up.place(0)), _INK)
    _rule(draw, (_LEFT, _TOP), (_LEFT, bottom), _INK)


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    """The names in the colours of their lines, side by side under the title."""
    left = float(_LEFT)
    for name, colour in zip(names, _COLOURS, strict=False):
        _rule(draw, (left, 58), (left + 22, 58), colour, 3)
        _text(draw, (left + 30, 58), name, _TEXT, _INK, "lm")
        left += 30 + width_of(name, _TEXT * _FINE) / _FINE + 26


def _upright(image: Image.Image, words: str) -> None:
    length = (_HEIGHT - _TOP - _BOTTOM) * _FINE
    area = length, round(1.6 * _TEXT * _FINE)
    label = centred(words, area, _TEXT * _FINE, FAINT)
    image.paste(label.transpose(Image.Transpose.ROTATE_90), (4 * _FINE, _TOP * _FINE))


def _rule(draw: ImageDraw.ImageDraw, start, end, colour, width: float = 1) -> None:
    ends = [tuple(_FINE * n for n in point) for point in (start, end)]
    draw.line(ends, colour, round(width * _FINE))


def _text(draw: ImageDraw.ImageDraw, place, words, size, colour, anchor) -> None:
    at = tuple(_FINE * n for n in place)
    draw.text(at, words, colour, font(size * _FINE), anchor=anchor)


def _dot(draw: ImageDraw.ImageDraw, place: tuple[float, float], colour) -> None:
    reach = 4 * _FINE
    x, y = place
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), colour)
