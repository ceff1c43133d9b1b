"""Texts of several prompts, settings or sentences, one per line."""

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidInput


def lines(text: str) -> list[str]:
    """The prompts of a text, one per line that is not empty; an empty text is one empty prompt."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]


def each(text: str, targets: Sequence[Any], name: str) -> list[str]:
    """One line of a setting per target prompt; a single line is for all of them."""
    parts = lines(text)
    if len(parts) not in (1, len(targets)):
        raise InvalidInput.of(
            name,
            "has lines that do not fit the prompts",
            f"{len(parts)} lines for {len(targets)} target prompts",
            "one line, or one per target prompt",
            "Put what belongs to one prompt on one line.",
        )
    return parts * len(targets) if len(parts) == 1 else parts


def sentences(text: str, name: str) -> list[str]:
    """The lines of a text that are not empty."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise InvalidInput.of(
            name, "has no sentences", repr(text), "one per line, at least one", "Write some."
        )
    return found
