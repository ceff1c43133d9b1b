"""The checks that settings share: a name among choices, a share, a strength, a count.

Each raises InvalidInput with the argument's name, what was got, what was expected and what to do.
"""

import math
from enum import Enum
from typing import TypeVar

from .errors import InvalidInput

Choice = TypeVar("Choice", bound=Enum)


def choice(
    name: str, value: object, choices: type[Choice], action: str = "Names are lower case."
) -> Choice:
    """The member of `choices` that has this value."""
    try:
        return choices(value)
    except ValueError:
        names = " or ".join(repr(each.value) for each in choices)
        raise InvalidInput.of(name, "is unknown", repr(value), names, action) from None


def share(name: str, value: float, action: str = "Choose a number between them.") -> None:
    """Refuses what is not within 0..1."""
    if not 0 <= value <= 1:
        raise InvalidInput.of(name, "leaves its range", value, "0 to 1", action)


def strength(name: str, value: float, action: str = "0 switches it off.") -> None:
    """Refuses what is not a finite number of 0 or more."""
    if not 0 <= value < math.inf:
        raise InvalidInput.of(name, "leaves its range", value, "a finite number, 0 or more", action)


def count(name: str, value: int, least: int, action: str = "Raise it.") -> None:
    """Refuses what is below `least`, or no finite number."""
    if not least <= value < math.inf:
        raise InvalidInput.of(name, "leaves its range", value, f"{least} or more", action)
