"""From the text of a prompt to its words: what is a word, and what is punctuation around it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .prompt import Word
from .scripts import SPACELESS, Kind, kind_of, runs

# They end a word even without a space after them, as in "masterpiece,best quality".
_SEPARATORS = frozenset(",;|，、､；：。｡！？｜・」』）】》〉〕］｝")
# They belong to the word before, even after a space.
_ATTACHED = _SEPARATORS | frozenset(".:!?")


@dataclass(frozen=True)
class Atom:
    """A word, a part of one, or punctuation.

    Attributes:
        text: as written.
        ids: its token ids, one or more.
        mark: whether it is punctuation.
        glued: whether it follows the atom before without a space.
    """

    text: str
    ids: tuple[int, ...]
    mark: bool
    glued: bool


def cut(piece: str) -> Iterator[tuple[str, bool]]:
    """(text, is punctuation) of what a piece of text without spaces consists of.

    Punctuation inside stays in the word, as in "black-and-white", unless it separates words. What
    is written without spaces is cut into single Han characters and hiragana, and runs of katakana.
    """
    found = runs(piece)
    word = ""
    for index, (kind, run) in enumerate(found):
        if kind is Kind.LETTERS or _is_inside(found, index):
            word += run
            continue
        if word:
            yield word, False
        yield run, kind not in SPACELESS
        word = ""
    if word:
        yield word, False


def join(atoms: Iterable[Atom], columns: Iterable[int]) -> tuple[Word, ...]:
    """The words that the atoms of a prompt make up.

    Args:
        atoms: of the whole prompt, in order.
        columns: the embedding columns of their tokens, in order.
    """
    words: list[list[tuple[Atom, list[int]]]] = []
    column = iter(columns)
    for atom in atoms:
        if not words or _starts_word([each for each, _ in words[-1]], atom):
            words.append([])
        words[-1].append((atom, [next(column) for _ in atom.ids]))
    return tuple(_word(word) for word in words)


def _is_inside(found: Sequence[tuple[Kind, str]], index: int) -> bool:
    """Whether a run is punctuation that stays in a word."""
    around = found[index - 1 : index] + found[index + 1 : index + 2]
    if found[index][0] is not Kind.MARKS or [kind for kind, _ in around] != [Kind.LETTERS] * 2:
        return False
    return not _separates(found[index][1], *(run for _, run in around))


def _separates(run: str, before: str, after: str) -> bool:
    """Whether punctuation between two words parts them; the comma of "1,000" does not."""
    number = len(run) == 1 and run.isascii() and before[-1].isdigit() and after[0].isdigit()
    return not number and bool(_SEPARATORS & {*run})


def _starts_word(word: Sequence[Atom], atom: Atom) -> bool:
    last, inner = word[-1], [each for each in word if not each.mark]
    if atom.mark:
        if kind_of(atom.text[0]) is Kind.OPENING:
            return bool(inner) or not atom.glued
        return not atom.glued and not {*atom.text} <= _ATTACHED
    # Two in a row without a space: the host cut the text there, the encoder reads two words, or
    # they are of a script without spaces.
    if not atom.glued or not last.mark or _ATTACHED & {*last.text}:
        return True
    return bool(inner) and bool(SPACELESS & {kind_of(inner[-1].text[-1]), kind_of(atom.text[0])})


def _word(atoms: Sequence[tuple[Atom, list[int]]]) -> Word:
    """A word from its atoms and their columns."""
    text = "".join(atom.text for atom, _ in atoms)
    inner = [index for index, (atom, _) in enumerate(atoms) if not atom.mark]
    first, last = (inner[0], inner[-1]) if inner else (0, len(atoms) - 1)
    columns = [c for _, places in atoms[first : last + 1] for c in places]
    marks = [c for _, places in [*atoms[:first], *atoms[last + 1 :]] for c in places]
    return Word(text, tuple(columns), tuple(marks))
