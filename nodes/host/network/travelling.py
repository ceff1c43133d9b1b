"""What travels with a prompt, one for all pictures or one for each: masks, ControlNet pictures."""

from collections.abc import Iterator
from typing import Any

from ....nmg_sampler import InvalidInput
from .conditions import Conditioning


def check_travelling(prompt: Conditioning, pictures: int, name: str) -> None:
    """Raises InvalidInput unless masks and hints are one for all still pictures or one for each.

    The host would leave the rest out, or deal them out to the edits.

    Args:
        name: of the input that the prompt came by.
    """
    for _, options in prompt:
        for what, count in _counts(options):
            if count not in (1, pictures):
                raise InvalidInput.of(
                    name,
                    f"brings {what} that do not fit the pictures",
                    f"{count} for {pictures} picture{'s' * (pictures > 1)}",
                    "1" if pictures == 1 else f"1 or {pictures}",
                    "Give one for all, or one for each.",
                )


def _counts(options: dict[str, Any]) -> Iterator[tuple[str, int]]:
    mask = options.get("mask")
    if getattr(mask, "ndim", 0) > 2:
        yield "masks", len(mask)
    control = options.get("control")
    while control is not None:
        hint = getattr(control, "cond_hint_original", None)
        if hint is not None:
            yield "ControlNet pictures", len(hint)
        control = getattr(control, "previous_controlnet", None)
