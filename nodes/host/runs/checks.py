"""What every run asks of what it is given."""

from typing import Any

from ....nmg_sampler import InvalidInput


def check_conditioning(conditioning: Any, name: str) -> None:
    """Raises InvalidInput if there is no prompt in a CONDITIONING."""
    if not conditioning:
        raise InvalidInput.of(
            name, "is empty", "no prompt", "at least one", "Connect a CLIP Text Encode node."
        )
