"""What every run asks of what it is given."""

from collections.abc import Sequence
from typing import Any

from ....nmg_sampler import InvalidInput
from ..network.conditions import Conditioning
from ..network.several import one_target
from ..network.travelling import check_travelling


def check_conditioning(conditioning: Any, name: str) -> None:
    """Raises InvalidInput if there is no prompt in a CONDITIONING."""
    if not conditioning:
        raise InvalidInput.of(
            name, "is empty", "no prompt", "at least one", "Connect a CLIP Text Encode node."
        )


def check_prompt_count(conditioning: Conditioning, name: str, shape: Sequence[int]) -> None:
    """Raises InvalidInput unless a CONDITIONING is one prompt for all latents of `shape`, or one
    for each, and so is what travels with it.

    The host would leave prompts out, or start again with the first, without a word.
    """
    one_target(conditioning, shape[0], name)
    check_parts(conditioning, name, shape)


def check_parts(conditioning: Conditioning, name: str, shape: Sequence[int]) -> None:
    """Raises InvalidInput unless masks and hints of a prompt fit latents of `shape`; of a video
    they are frames."""
    if len(shape) == 4:
        check_travelling(conditioning, shape[0], name)
