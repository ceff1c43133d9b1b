"""Where the words that a user names stand in a prompt."""

import re

from ..errors import InvalidInput
from .cutting import cut
from .full_width import narrow
from .prompt import TokenizedPrompt, normalised


def find(prompt: TokenizedPrompt, phrase: str, argument: str = "phrase") -> tuple[int, ...]:
    """The embedding columns of every place where a word, or several in a row, stand in a prompt.

    Args:
        prompt: where to look.
        phrase: such as "tiger", "oil painting" or "老虎"; case and punctuation around words do not
            matter.
        argument: what the phrase is called in an error.

    Returns:
        Columns, ascending, without those of punctuation.

    Raises:
        InvalidInput: the phrase is empty, or not in the prompt.
    """
    wanted = [name for piece in phrase.split() for name in _names(piece)]
    if not wanted:
        raise InvalidInput.of(
            argument, "names no word", repr(phrase), "a word of the prompt", "Fill it in."
        )
    names = [_names(word.text) for word in prompt.words]
    places = [place for i in range(len(names)) for place in _reach(names, i, wanted)]
    if not places:
        known = ", ".join(word.name for word in prompt.words)
        raise InvalidInput.of(
            argument,
            "names a word that is not in the prompt",
            repr(phrase),
            f"some of: {known or '(the prompt is empty)'}",
            "Spell it as in the prompt.",
        )
    return tuple(sorted({column for i in places for column in prompt.words[i].columns}))


def find_each(prompt: TokenizedPrompt, words: str) -> dict[str, tuple[int, ...]]:
    """Words or phrases and where they stand: those of a text, or every word of the prompt.

    Raises:
        InvalidInput: a word is not in the prompt, or there is none at all.
    """
    wanted = [word.strip() for word in re.split(r"[,;\n]", narrow(words)) if word.strip()]
    wanted = wanted or [word.name for word in prompt.words if word.columns]
    if not wanted:
        raise InvalidInput.of(
            "prompt", "has no words", repr(prompt.text), "at least one", "Write the prompt."
        )
    return {word: find(prompt, word, "words") for word in wanted}


def _names(piece: str) -> list[str]:
    """What a piece without spaces is compared by. An encoder may read words of it as one."""
    names = [normalised(text) for text, mark in cut(piece) if not mark]
    return names or [normalised(piece)]


def _reach(names: list[list[str]], start: int, wanted: list[str]) -> range:
    """The words from `start` on that are the wanted ones together; none if they are others."""
    said: list[str] = []
    for end in range(start, len(names)):
        said += names[end]
        if said == wanted:
            return range(start, end + 1)
        if len(said) >= len(wanted):
            break
    return range(0)
