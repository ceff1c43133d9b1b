"""Prompts as attention sees them: which embedding columns belong to which word."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """One word of a prompt, with the punctuation that is attached to it.

    Attributes:
        text: as written, without weights and their brackets: "building,".
        columns: embedding columns of its tokens, ascending, without the punctuation around it.
        marks: embedding columns of the punctuation around it; empty if it is nothing else.
    """

    text: str
    columns: tuple[int, ...]
    marks: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What it is compared by: "building" for "Building,"."""
        return normalised(self.text)

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of its columns, punctuation included, ascending."""
        return tuple(sorted(self.columns + self.marks))


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt cut into tokens by a text encoder of CLIP's kind.

    Attributes:
        text: as typed.
        ids: token id per embedding column, with begin, end and padding tokens: 77 per chunk, and as
            many chunks as the prompt needs. Equal ids are equal tokens.
        words: its words in order; every column that is in none is begin, end or padding.
    """

    text: str
    ids: tuple[int, ...]
    words: tuple[Word, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The columns of all words, ascending."""
        return tuple(column for word in self.words for column in word.tokens)

    @property
    def frames(self) -> tuple[tuple[int, ...], ...]:
        """What surrounds the words, chunk by chunk: columns of begin, end, and any padding."""
        spoken = set(self.tokens)
        silent = [column for column in range(len(self.ids)) if column not in spoken]
        # Only the begin token tells where a chunk starts: a chunk may be full, without padding.
        begins = [column for column in silent if self.ids[column] == self.ids[0]]
        bounds = zip(begins, [*begins[1:], len(self.ids)], strict=True)
        return tuple(tuple(c for c in silent if low <= c < high) for low, high in bounds)


def is_punctuation(character: str) -> bool:
    """Whether it is neither a letter nor a digit, nor an accent or vowel sign on one."""
    return not (character.isalnum() or unicodedata.category(character).startswith("M"))


def normalised(text: str) -> str:
    """Lower case, without the punctuation around it; punctuation alone stays as it is."""
    wordlike = [index for index, c in enumerate(text) if not is_punctuation(c)]
    return (text[wordlike[0] : wordlike[-1] + 1] if wordlike else text).lower()


def to_plain(prompt: TokenizedPrompt) -> dict[str, Any]:
    """A prompt as texts, numbers and lists, for whoever keeps it in a file."""
    words = [[word.text, list(word.columns), list(word.marks)] for word in prompt.words]
    return {"text": prompt.text, "ids": list(prompt.ids), "words": words}


def from_plain(plain: Mapping[str, Any]) -> TokenizedPrompt:
    """The prompt that `to_plain` wrote down."""
    words = (Word(text, tuple(columns), tuple(marks)) for text, columns, marks in plain["words"])
    return TokenizedPrompt(plain["text"], tuple(plain["ids"]), tuple(words))
