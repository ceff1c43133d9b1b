"""A part of a run: fractions of its steps, 0 the noisiest end."""

from ..errors import InvalidInput
from .schedule import Step


def check_part(start: float, end: float) -> None:
    """Raises InvalidInput unless 0 <= start < end <= 1."""
    if not 0 <= start < end <= 1:
        raise InvalidInput.of(
            "start and end",
            "are no part of a run",
            f"{start} to {end}",
            "0 <= start < end <= 1",
            "0 to 1 is the whole run.",
        )


def is_in_part(step: Step, total: int, start: float, end: float) -> bool:
    """Whether `step` of `total` lies in the part from `start` up to `end`."""
    return start <= step.index / total < end
