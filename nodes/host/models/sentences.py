"""Many sentences through the host's text encoder, one after the other."""

from collections.abc import Iterator, Sequence

import comfy.utils
from comfy.sd import CLIP

from ....nmg_sampler import InvalidInput
from ....nmg_sampler.editors import SentenceEmbedding
from .encoding import check_clip, encode


def encode_sentences(clip: CLIP, *groups: Sequence[str]) -> list[Iterator[SentenceEmbedding]]:
    """The embeddings of each group, as CLIP Text Encode makes them, when they are asked for.

    They share one progress bar. A cancelled run stops inside the next sentence: the host's layers
    raise then.

    Raises:
        InvalidInput: there is no CLIP, or a sentence needs more than one of its chunks.
    """
    check_clip(clip)
    for group in groups:
        for sentence in group:
            _check_length(clip, sentence)
    bar = comfy.utils.ProgressBar(sum(map(len, groups)))
    return [_encode(clip, group, bar) for group in groups]


def _encode(
    clip: CLIP, sentences: Sequence[str], bar: comfy.utils.ProgressBar
) -> Iterator[SentenceEmbedding]:
    for sentence in sentences:
        ((embedding, options),) = encode(clip, sentence)
        bar.update(1)
        yield SentenceEmbedding(embedding, options.get("pooled_output"))


def _check_length(clip: CLIP, sentence: str) -> None:
    """Columns of a mean belong together: each sentence has as many as an empty prompt."""
    tokens = clip.tokenize(sentence)
    chunks = tokens.values() if isinstance(tokens, dict) else [tokens]
    count = max(len(each) for each in chunks)
    if count > 1:
        raise InvalidInput.of(
            "sentence",
            "is too long for an edit direction",
            f"{sentence!r}, {count} chunks of the text encoder",
            "one chunk (75 tokens for CLIP)",
            "Shorten it, or put parts of it on lines of their own.",
        )
