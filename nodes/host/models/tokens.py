"""Prompts through the host's CLIP text encoders: which embedding columns belong to which word."""

import re
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from comfy import sd1_clip
from comfy.sd import CLIP

from ....nmg_sampler import InvalidInput
from ....nmg_sampler.words import Atom, TokenizedPrompt, join
from .reading import Ids, Part, Reader

# CLIP's vocabulary, by the host's names of the encoders: SD 1.x; SD 2.x; SDXL. Of SDXL's two the
# first is read; the other one pads with another token.
_ENCODERS = (("l",), ("h",), ("l", "g"))
# What the host cuts a prompt at; it allows spaces before the name of an embedding.
_PIECE = re.compile(rf"(?:{re.escape('embedding:')}\s*)?\S+")


def tokenize(clip: CLIP, text: str) -> TokenizedPrompt:
    """A prompt as CLIP Text Encode hands it to the model, with the columns of each word.

    Args:
        clip: of SD 1.x, SD 2.x or SDXL.
        text: with the host's syntax: "(tiger:1.3)", "\\(" for a bracket, "embedding:name".

    Raises:
        InvalidInput: the text encoder is of another kind, its parts disagree about the columns, or
            the prompt names an embedding that was made for another encoder.
    """
    ids, places = _columns(clip, text)

    @cache
    def ids_of(piece: str) -> Ids:
        escaped = piece.replace("(", "\\(").replace(")", "\\)")
        alone, spoken = _columns(clip, escaped)
        return tuple(alone[column] for column in spoken)

    reader = Reader(ids_of, _vocabulary(clip))
    atoms = [*_atoms(text, reader.parts)]
    if [i for atom in atoms for i in atom.ids] != [ids[column] for column in places]:
        raise InvalidInput.of(
            "prompt",
            "is cut into other tokens than its words are",
            repr(text),
            "words that the text encoder reads one by one",
            "Leave out unusual characters.",
        )
    return TokenizedPrompt(text, ids, join(atoms, places))


def _columns(clip: CLIP, text: str) -> tuple[Ids, list[int]]:
    """Token id per embedding column, and the columns that the text itself has."""
    encoders = _encoders(clip, text)
    read = {}
    for name, chunks in encoders.items():
        tokens = [token for chunk in chunks for token in chunk]
        width = getattr(getattr(clip.tokenizer, f"clip_{name}", None), "embedding_size", None)
        # The host numbers what comes from the text and gives 0 to begin, end and padding.
        places = [column for column, (_, _, group) in enumerate(tokens) if group]
        read[name] = tuple(_id(token, width) for token, _, _ in tokens), places
    (first, (ids, places)), *others = read.items()
    for name, (other_ids, other_places) in others:
        # Embeddings have another vector for each encoder.
        known = [(column, max(ids[column], -1)) for column in places]
        other_known = [(column, max(other_ids[column], -1)) for column in other_places]
        if known != other_known:
            raise InvalidInput.of(
                "prompt",
                "is cut into other tokens by the second text encoder than by the first",
                f"{len(places)} tokens from {first!r} and {len(other_places)} from {name!r}",
                "the same tokens",
                "Leave out embeddings that are made for one encoder alone.",
            )
    return ids, places


def _encoders(clip: CLIP, text: str) -> dict[str, list]:
    """The host's chunks of (token, weight, group) per encoder."""
    if clip is None:
        found = "nothing"
    else:
        tokens = clip.tokenize(text, return_word_ids=True)
        names = next((n for n in _ENCODERS if isinstance(tokens, dict) and set(n) == {*tokens}), ())
        if names:
            return {name: tokens[name] for name in names}
        keys = ", ".join(map(str, tokens)) if isinstance(tokens, dict) else "one list"
        found = f"{type(clip.tokenizer).__name__} ({keys})"
    raise InvalidInput.of(
        "clip",
        "is no text encoder whose words can be aligned",
        found,
        "the CLIP text encoder of SD 1.x, SD 2.x or SDXL",
        "Connect the clip of such a checkpoint.",
    )


def _vocabulary(clip: CLIP) -> dict[int, str]:
    """How each token is spelt, one sign per byte; empty if the host does not tell."""
    names = [name for names in _ENCODERS for name in names]
    encoders = (getattr(clip.tokenizer, f"clip_{name}", None) for name in names)
    return next((found.inv_vocab for found in encoders if hasattr(found, "inv_vocab")), {})


def _id(token: Any, width: int | None) -> int:
    """The token's id; for a vector of an embedding a negative one, the same for equal vectors."""
    if not torch.is_tensor(token):
        return int(token)
    if width is not None and token.shape[-1] != width:
        # The host only warns, and moves what follows one column ahead.
        raise InvalidInput.of(
            "prompt",
            "names an embedding that was made for another text encoder",
            f"vectors of {token.shape[-1]} numbers",
            f"{width} numbers",
            "Leave it out, or take one made for this model.",
        )
    return -2 - zlib.crc32(token.detach().to("cpu", torch.float32).numpy().tobytes())


def _atoms(text: str, read: Callable[[str], list[Part]]) -> Iterator[Atom]:
    """The prompt without weights and their brackets, in parts; what has no token is left out."""
    spaced = True
    for escaped, _ in sd1_clip.token_weights(sd1_clip.escape_important(text), 1.0):
        segment = sd1_clip.unescape_important(escaped)
        for piece in _PIECE.finditer(segment):
            glued = not spaced and piece.start() == 0
            for part, ids, mark in read(piece.group()):
                yield Atom(part, ids, mark, glued)
                glued = True
        spaced = segment[-1:].isspace()
