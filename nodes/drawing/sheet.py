"""Pictures in a labelled grid, to be looked at side by side. Arrays in, array out: no host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .lettering import FAINT, PAPER, centred, width_of

_INK = (20, 20, 20)
# Of the longer side of a picture: readable where the whole sheet is scaled to a screen.
_TEXT, _GAP = 0.085, 0.03
_LEAST_TEXT_PX, _LEAST_GAP_PX = 11, 4
_LINE = 1.5  # height of a line of text, in text sizes
_ROOM = 0.94  # of its area, that a line of text may take


class Axis(NamedTuple):
    """What stands along one side of a sheet: a label for every row or column, and their title."""

    labels: Sequence[str]
    title: str = ""


def contact_sheet(
    pictures: Sequence[np.ndarray], columns: Axis, rows: Axis | None = None
) -> np.ndarray:
    """Pictures in rows and columns, with a label above each column and before each row.

    Text is as large as the pictures are, and smaller where it would not fit. For large text on
    small pictures `fit` them first.

    Args:
        pictures: each (H, W, 3) 0..1, all of one size, row by row.
        columns: labels and title of the columns, above them; as many labels as columns.
        rows: labels and title of the rows, to the left of them; None for one row without a label.

    Returns:
        (height, width, 3) float32 0..1: the pictures on white, in 8-bit precision.
    """
    height, width = pictures[0].shape[:2]
    beside = rows or Axis([""])
    size = max(_LEAST_TEXT_PX, round(_TEXT * max(height, width)))
    gap = max(_LEAST_GAP_PX, round(_GAP * max(height, width)))
    line = round(_LINE * size)
    label_width = min(width, max(_length(label, size) for label in beside.labels) + 2 * gap)
    left = gap + (line if beside.title else 0) + (label_width if any(beside.labels) else 0)
    top = gap + (line if columns.title else 0) + (line if any(columns.labels) else 0)
    across = len(columns.labels) * (width + gap) - gap
    down = len(beside.labels) * (height + gap) - gap

    sheet = Image.new("RGB", (left + across + gap, top + down + gap), PAPER)
    if columns.title:
        sheet.paste(_label(columns.title, (across, line), size, FAINT), (left, gap))
    if beside.title:
        title = _label(beside.title, (down, line), size, FAINT)
        sheet.paste(title.transpose(Image.Transpose.ROTATE_90), (gap, top))
    for column, label in enumerate(columns.labels):
        place = left + column * (width + gap), top - line
        sheet.paste(_label(label, (width, line), size, _INK), place)
    for row, label in enumerate(beside.labels):
        place = left - label_width, top + row * (height + gap)
        sheet.paste(_label(label, (label_width, height), size, _INK), place)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, len(columns.labels))
        place = left + column * (width + gap), top + row * (height + gap)
        sheet.paste(_image(picture), place)
    return np.asarray(sheet, np.float32) / 255


def fit(picture: np.ndarray, longer_side: int) -> np.ndarray:
    """A picture scaled so that its longer side has so many pixels: (H, W, 3) 0..1 float32."""
    factor = longer_side / max(picture.shape[:2])
    height, width = (max(1, round(factor * side)) for side in picture.shape[:2])
    scaled = _image(picture).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(scaled, np.float32) / 255


def _image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.uint8(np.rint(255 * np.clip(picture, 0, 1))))


def _length(text: str, size: float) -> int:
    """Width of a line of text, in whole pixels."""
    return int(np.ceil(width_of(text, size)))


def _label(text: str, area: tuple[int, int], size: float, ink: tuple[int, int, int]) -> Image.Image:
    """A picture of (width, height) with one line of text in its middle, smaller if need be.

    It is drawn in full size and scaled: small fonts are wider than their size says.
    """
    width, height = area
    length = max(width, round(_length(text, size) / _ROOM))
    line = centred(text, (length, round(_LINE * size)), size, ink)
    if length > width:
        scaled = max(1, round(line.height * width / length))
        line = line.resize((width, scaled), Image.Resampling.LANCZOS)
    image = Image.new("RGB", area, PAPER)
    image.paste(line, (0, (height - line.height) // 2))
    return image
