"""Tokens of the captions: the host's CLIP tokenizer, restricted to the words that scenes use."""

from __future__ import annotations

import itertools

import comfy.sd1_clip
import torch
from torch import Tensor

from demo.second import scenes


class Vocabulary:
    """Used token ids and the row of each in the trained embedding.

    Attributes:
        columns: tokens of a caption, with start, end and padding.
        tokens: sorted token ids; row i of the embedding belongs to tokens[i].
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._tokenizer = comfy.sd1_clip.SDTokenizer(max_length=columns)
        self._cache: dict[str, Tensor] = {}
        used = {token for text in _covering_texts() for token in self.ids(text)}
        self.tokens = tuple(sorted(used))
        self._row_of = {token: row for row, token in enumerate(self.tokens)}

    def ids(self, text: str) -> list[int]:
        """The token ids of `text` (`columns` of them), with start, end and padding."""
        (chunk,) = self._tokenizer.tokenize_with_weights(text)
        return [int(token) for token, _ in chunk]

    def rows(self, texts: list[str]) -> Tensor:
        """Embedding rows, (B, columns) int64."""
        for text in texts:
            if text not in self._cache:
                self._cache[text] = torch.tensor([self._row_of[token] for token in self.ids(text)])
        return torch.stack([self._cache[text] for text in texts])


def _covering_texts() -> list[str]:
    """Texts that together hold every token of every caption, and the empty one."""
    words = itertools.chain(
        scenes.shapes,
        scenes.colours,
        scenes.background_types,
        scenes.sizes,
        scenes.places,
        scenes.relations,
        ("a", "an", "and", "at the", ""),
    )
    forms = [form.format(things="", type="", background="") for form in scenes.caption_forms]
    return [*words, *forms]
