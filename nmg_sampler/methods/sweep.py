"""Settings on a grid: the same run again and again, with two of its numbers changed.

Which numbers there are is read off the methods themselves: `text_scale` of the run, and every
whole or real number among a method's settings.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import NamedTuple, get_type_hints

from ..contract.guidance import Guidance, check_text_scale
from ..errors import InvalidInput

MOST_CELLS = 64
TEXT_SCALE = "text_scale"


class Swept(NamedTuple):
    """A parameter and the values it takes, in order."""

    name: str
    values: Sequence[float]


class Setting(NamedTuple):
    """What one run of a sweep is made with."""

    guidance: Guidance
    text_scale: float


def parse_values(argument: str, text: str) -> list[float]:
    """Numbers separated by commas, as in "1.5, 3, 7.5".

    Args:
        argument: the input's name, for the message.

    Raises:
        InvalidInput: there is none, or one is no finite number.
    """
    return [_number(argument, text, part.strip()) for part in text.split(",")]


def _number(argument: str, text: str, part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    problem = "holds something that is no number" if text.strip() else "is empty"
    got = f"{part!r} in {text!r}" if text.strip() else repr(text)
    raise InvalidInput.of(
        argument,
        problem,
        got,
        "finite numbers separated by commas",
        "Write them as in '1.5, 3, 7.5', with a point for decimals.",
    )


def sweep_parameters(methods: Iterable[type[Guidance]]) -> list[str]:
    """The parameters of these methods in their order, each once."""
    return list(dict.fromkeys(name for method in methods for name in parameters_of(method)))


def parameters_of(method: type[Guidance]) -> dict[str, type]:
    """Name and type, int or float, of what can be swept in a run with this method.

    A method that was made for one text scale has it among its settings, and lets none be swept.
    """
    if not is_dataclass(method):
        return {TEXT_SCALE: float}
    hints = get_type_hints(method)
    types = {field.name: hints[field.name] for field in fields(method)}
    numbers = {name: kind for name, kind in types.items() if kind in (int, float)}
    return {} if TEXT_SCALE in numbers else {TEXT_SCALE: float, **numbers}


def sweep_settings(
    guidance: Guidance, text_scale: float, rows: Swept, columns: Swept
) -> list[Setting]:
    """The setting of each cell of the grid, row by row.

    Args:
        guidance, text_scale: what the cells have in common.
        rows, columns: what changes from row to row, and from column to column.

    Raises:
        InvalidInput: the method lacks a parameter, both are the same, a value is out of its range,
            or there are more than `MOST_CELLS` cells.
    """
    if rows.name == columns.name:
        raise InvalidInput.of(
            "rows and columns",
            "are the same parameter",
            repr(rows.name),
            "two different ones",
            "For one parameter alone, give the other a single value.",
        )
    cells = len(rows.values) * len(columns.values)
    if cells > MOST_CELLS:
        raise InvalidInput.of(
            "row_values and column_values",
            "make too many pictures",
            f"{len(rows.values)} x {len(columns.values)} = {cells}",
            f"{MOST_CELLS} at most",
            "Leave some values out.",
        )
    down, across = (
        [_typed(guidance, side, swept.name, value) for value in swept.values]
        for side, swept in (("rows", rows), ("columns", columns))
    )
    return [
        _setting(guidance, text_scale, {rows.name: row, columns.name: column})
        for row in down
        for column in across
    ]


def _typed(guidance: Guidance, side: str, name: str, value: float) -> float:
    """The value as the parameter's own type."""
    known = parameters_of(type(guidance))
    if name not in known:
        raise InvalidInput.of(
            side,
            "is no parameter of the guidance",
            f"{name!r} for {type(guidance).__name__}",
            " or ".join(map(repr, known)) or "none at all: it was made for one text_scale",
            "Choose one that it has, or another guidance.",
        )
    if known[name] is int and not value.is_integer():
        raise InvalidInput.of(name, "is no whole number", value, "1, 2, 3 ...", "Round it.")
    return known[name](value)


def _setting(guidance: Guidance, text_scale: float, changes: dict[str, float]) -> Setting:
    text_scale = changes.pop(TEXT_SCALE, text_scale)
    check_text_scale(text_scale)
    return Setting(replace(guidance, **changes) if changes else guidance, text_scale)
