"""A piece of a prompt in the parts that a text encoder of CLIP's kind reads apart."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ....nmg_sampler.words import cut, is_punctuation

Ids = tuple[int, ...]
Part = tuple[str, Ids, bool]  # text, its tokens, whether it is punctuation

_END_OF_WORD = "</w>"
_EMBEDDING = "embedding:"


@dataclass(frozen=True)
class Reader:
    """What is a word to the encoder, and what is only a part of one.

    Attributes:
        ids_of: the tokens of a piece that stands alone.
        vocabulary: how each token is spelt, one sign per byte of UTF-8.
    """

    ids_of: Callable[[str], Ids]
    vocabulary: Mapping[int, str]

    def parts(self, piece: str) -> list[Part]:
        """Words and punctuation apart where the encoder reads them apart, else together.

        An apostrophe starts a token in "'tis"; the first token of "りが" ends in its second
        character.
        """
        if piece.startswith(_EMBEDDING):
            return self._apart(piece, _embedding_and_marks(piece)) or self._joined(piece)
        found = [*cut(piece)]
        return self._apart(piece, found) or self._by_bytes(piece, found) or self._joined(piece)

    def _joined(self, piece: str) -> list[Part]:
        return [(piece, self.ids_of(piece), False)] if self.ids_of(piece) else []

    def _apart(self, piece: str, found: Sequence[tuple[str, bool]]) -> list[Part]:
        """The parts as if each stood alone; none if the encoder reads another text then."""
        parts = [(part, self.ids_of(part), mark) for part, mark in found if self.ids_of(part)]
        return parts if sum((ids for _, ids, _ in parts), ()) == self.ids_of(piece) else []

    def _by_bytes(self, piece: str, found: Sequence[tuple[str, bool]]) -> list[Part]:
        """The parts whose last byte is the last one of a token; none if the bytes do not fit.

        A word without spaces is one word to the encoder, and its last token one that ends a word:
        alone, its characters are other tokens.
        """
        ids = self.ids_of(piece)
        sizes = [len(self.vocabulary.get(i, "").removesuffix(_END_OF_WORD)) for i in ids]
        ends = dict(zip(accumulate(sizes), range(1, len(ids) + 1), strict=True))
        parts: list[Part] = []
        text, marks, read, taken = "", True, 0, 0
        for part, mark in found:
            text, marks, read = text + part, marks and mark, read + _bytes(part)
            if read in ends:
                parts.append((text, ids[taken : ends[read]], marks))
                text, marks, taken = "", True, ends[read]
        return parts if all(sizes) and not text and taken == len(ids) else []


def _embedding_and_marks(piece: str) -> list[tuple[str, bool]]:
    """The name of an embedding, of any script, and the punctuation after it."""
    end = len(piece)
    while is_punctuation(piece[end - 1]):
        end -= 1
    return [(text, mark) for text, mark in ((piece[:end], False), (piece[end:], True)) if text]


def _bytes(text: str) -> int:
    """How many bytes the encoder reads of a text."""
    return len(unicodedata.normalize("NFC", text).lower().encode())
