"""What every run asks of what it is given."""

from typing import Any

from ....nmg_sampler import InvalidInput
from ..network.conditions import Conditioning
from ..network.several import one_target


def check_conditioning(conditioning: Any, name: str) -> None:
    """Raises InvalidInput if there is no prompt in a CONDITIONING."""
    if not conditioning:
        raise InvalidInput.of(
            name, "is empty", "no prompt", "at least one", "Connect a CLIP Text Encode node."
        )


def check_prompt_count(conditioning: Conditioning, name: str, pictures: int) -> None:
    """Raises InvalidInput unless a CONDITIONING is one prompt for all pictures, or one for each.

    The host would leave prompts out, or start again with the first, without a word.
    """
    one_target(conditioning, pictures, name)
