"""Texts through the host's CLIP."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from comfy.sd import CLIP

from ....nmg_sampler import InvalidInput


def encode_together(clip: CLIP, texts: Sequence[str]) -> list[list[Any]]:
    """One CONDITIONING with a row per text.

    Texts of unequal length are repeated to one, as the host does where it runs them together: it
    changes no result.

    Raises:
        InvalidInput: there is no CLIP, or it has a schedule of its own.
    """
    encoded = [_encode(clip, text) for text in texts]
    length = math.lcm(*(embedding.shape[1] for embedding, _ in encoded))
    rows = [embedding.repeat(1, length // embedding.shape[1], 1) for embedding, _ in encoded]
    options = dict(encoded[0][1])
    if options.get("pooled_output") is not None:
        options["pooled_output"] = torch.cat([each["pooled_output"] for _, each in encoded])
    return [[torch.cat(rows), options]]


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


def _encode(clip: CLIP, text: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """(embedding, options) of one text."""
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
    return tuple(parts[0])
