"""Runs of a text: letters, punctuation, and the scripts that write words without spaces.

Chinese and Japanese have no spaces, and where their words end no rule can tell. What is told here
is fine enough for any word to be found as one or several runs.
"""

import unicodedata
from enum import Enum
from itertools import pairwise

from .prompt import is_punctuation


class Kind(Enum):
    """What a run is made of: a word is of letters, or of one or several runs of the others."""

    LETTERS = "letters, digits and accents"
    MARKS = "punctuation"
    OPENING = "brackets that open, of Chinese and Japanese"
    HAN = "a Han character"
    HIRAGANA = "a hiragana"
    KATAKANA = "katakana"


SPACELESS = frozenset({Kind.HAN, Kind.HIRAGANA, Kind.KATAKANA})
_OPENING = frozenset("「『（【《〈〔［｛")
# Particles and endings are in hiragana: one by one, so that a word is found before its particle.
_ONE_BY_ONE = frozenset({Kind.HAN, Kind.HIRAGANA})
_LONG_VOWEL = "ー"
_BLOCKS = (
    (0x2E80, 0x2FD5, Kind.HAN),
    (0x3005, 0x3007, Kind.HAN),
    (0x3041, 0x3096, Kind.HIRAGANA),
    (0x309D, 0x309F, Kind.HIRAGANA),
    (0x30A1, 0x30FA, Kind.KATAKANA),
    (0x30FC, 0x30FF, Kind.KATAKANA),
    (0x31F0, 0x31FF, Kind.KATAKANA),
    (0x3400, 0x9FFF, Kind.HAN),
    (0xF900, 0xFAFF, Kind.HAN),
    (0xFF66, 0xFF9F, Kind.KATAKANA),
    (0x20000, 0x3FFFF, Kind.HAN),
)


def runs(text: str) -> list[tuple[Kind, str]]:
    """(what it is, text) of the runs of a text without spaces, in order."""
    found: list[tuple[Kind, str]] = []
    for character in text:
        kind = kind_of(character)
        if found and _continues(found[-1][0], kind, character):
            found[-1] = found[-1][0], found[-1][1] + character
        else:
            found.append((kind, character))
    return found


def kind_of(character: str) -> Kind:
    """What a run that starts with this character is made of."""
    code = ord(character)
    spaceless = next((kind for low, high, kind in _BLOCKS if low <= code <= high), None)
    if spaceless is not None:
        return spaceless
    if character in _OPENING:
        return Kind.OPENING
    return Kind.MARKS if is_punctuation(character) else Kind.LETTERS


def spoken(names: list[str]) -> str:
    """Words in a row as they are written: with spaces, but for those of scripts without them."""
    text = "".join(names[:1])
    for before, after in pairwise(names):
        close = kind_of(before[-1]) in SPACELESS and kind_of(after[0]) in SPACELESS
        text += after if close else f" {after}"
    return text


def _continues(last: Kind, kind: Kind, character: str) -> bool:
    if last in SPACELESS and unicodedata.category(character).startswith("M"):
        return True
    if character == _LONG_VOWEL and last is Kind.HIRAGANA:
        return True
    return kind is last and kind not in _ONE_BY_ONE
