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
from .encoding import encode_together
from .tokens import tokenize

_WORDS, _OF = "nmg_words", "embedding"


def encode_prompts(clip: CLIP, texts: Sequence[str]) -> Conditioning:
    """One CONDITIONING with a row per text, which knows the words where the encoder tells them.

    Raises:
        as `encode_together`.
    """
    ((embedding, options),) = encode_together(clip, texts)
    try:
        prompts = [tokenize(clip, text) for text in texts]
    except InvalidInput:  # an encoder without CLIP's tokens: the prompts are good without words
        return [[embedding, options]]
    words = [
        {**to_plain(prompt), _OF: _digest(row)}
        for prompt, row in zip(prompts, embedding, strict=True)
    ]
    return [[embedding, {**options, _WORDS: words}]]


def words_of(prompt: Conditioning, count: int) -> tuple[TokenizedPrompt | None, ...]:
    """The words of `count` prompts in a CONDITIONING, None for one whose words are not known.

    Not known are those of a prompt in parts, of rows that are a prompt for each picture of a batch,
    and of an embedding that was changed after it was made.
    """
    unknown = (None,) * count
    if len(prompt) != 1:
        return unknown
    embedding, options = prompt[0]
    words: list[dict[str, Any]] = options.get(_WORDS) or []
    if len(words) != len(embedding) or count not in (1, len(words)):
        return unknown
    if count == 1 and len({tuple(each["ids"]) for each in words}) != 1:
        return unknown
    found = [
        from_plain(each) if each[_OF] == _digest(row) else None
        for each, row in zip(words, embedding, strict=True)
    ]
    if count == 1:  # the same prompt in every row, if every row still is its own
        return (None,) if None in found else (found[0],)
    return tuple(found)


def source_words(source: Conditioning, clip: CLIP | None, text: str) -> TokenizedPrompt:
    """The words of a trajectory's prompt, of a text or of the prompt itself where that is empty.

    Raises:
        InvalidInput: the text is another one than the prompt's, or neither tells the words.
    """
    (known,) = words_of(source, 1)
    if known is not None and not text.strip():
        return known
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
