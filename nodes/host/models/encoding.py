"""Texts through the host's CLIP."""

from comfy.sd import CLIP

from ....nmg_sampler import InvalidInput
from ..network.conditions import Conditioning


def check_clip(clip: CLIP | None) -> None:
    """Raises InvalidInput if there is no CLIP."""
    if clip is None:
        raise InvalidInput.of(
            "clip",
            "is missing",
            "nothing",
            "the text encoder of the checkpoint",
            "Connect it; a checkpoint without one needs a CLIP loader.",
        )


def encode(clip: CLIP, text: str) -> Conditioning:
    """One text as a CONDITIONING of one part.

    Raises:
        InvalidInput: there is no CLIP, or it has a schedule of its own.
    """
    check_clip(clip)
    parts = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if len(parts) != 1:
        raise InvalidInput.of(
            "clip",
            "has a schedule, so a text becomes several prompts",
            f"{len(parts)} parts",
            "one part per text",
            "Take the hook with keyframes off this CLIP.",
        )
    return parts
