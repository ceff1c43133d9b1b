"""The words of a prompt on its way with the CONDITIONING, so that nobody has to type them twice.

What other nodes do to an embedding they do not do to these: a hash of each row says whether it is
still the prompt that the words are of.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from comfy.sd import CLIP

from ....nmg_sampler import InvalidInput, TokenizedPrompt
from ....nmg_sampler.words import from_plain, to_plain
from ..network.conditions import Conditioning
from ..network.several import WORDS, Target, join_prompts
from .dynamic_prompts import check_plain
from .encoding import encode
from .tokens import tokenize

_OF = "embedding"


def encode_prompts(clip: CLIP, texts: Sequence[str]) -> Conditioning:
    """One CONDITIONING of several texts, which knows the words where the encoder tells them.

    Raises:
        as `encode`.
    """
    return join_prompts([_with_words(encode(clip, text), clip, text) for text in texts])


def _with_words(prompt: Conditioning, clip: CLIP, text: str) -> Conditioning:
    ((embedding, options),) = prompt
    try:
        words = to_plain(tokenize(clip, text))
    except InvalidInput:  # an encoder without CLIP's tokens: the prompt is good without words
        return prompt
    return [[embedding, {**options, WORDS: [{**words, _OF: _digest(embedding[0])}]}]]


def words_of(target: Target) -> TokenizedPrompt | None:
    """The words of a branch's prompt; None where they are not known.

    Not known are those of a prompt in parts, of one for each picture of a batch, and of an
    embedding that was changed after it was made.
    """
    if len(target) != 1 or len(target[0]) != 1:
        return None
    embedding, options = target[0][0]
    words: list[dict[str, Any]] = options.get(WORDS) or []
    if len(words) != len(embedding) or len({tuple(each["ids"]) for each in words}) != 1:
        return None
    if any(each[_OF] != _digest(row) for each, row in zip(words, embedding, strict=True)):
        return None
    return from_plain(words[0])


def source_words(source: Conditioning, clip: CLIP | None, text: str) -> TokenizedPrompt:
    """The words of a trajectory's prompt, of a text or of the prompt itself where that is empty.

    Raises:
        InvalidInput: the text is another one than the prompt's, has what ComfyUI's interface
            resolves elsewhere, or neither tells the words.
    """
    known = words_of((source,))
    if known is not None and text.strip() in ("", known.text):
        return known
    check_plain(text, "prompt")
    told = tokenize(clip, text)
    if known is not None and known.ids != told.ids:
        raise InvalidInput.of(
            "prompt",
            "is not the one the picture was inverted with",
            repr(text),
            repr(known.text),
            "Connect the text of NMG Invert's prompt, or leave it empty.",
        )
    return told


def _digest(row: torch.Tensor) -> str:
    """A short hash of one row of an embedding, (columns, width)."""
    values = row.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
