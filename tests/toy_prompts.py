"""Prompts of a toy text encoder: short chunks, and tokens that the test decides."""

import re
import zlib

from nmg_sampler.words import TokenizedPrompt, Word

BEGIN, END, PADDING = 1, 2, 0


def toy_prompt(text, length=12):
    """The prompt in chunks of `length` columns; "cy|an" is one word of two tokens.

    Punctuation around a word is one token before and one after it.
    """
    ids, words = [], []

    def place(token):
        if len(ids) % length == length - 1:
            ids.append(END)
        if len(ids) % length == 0:
            ids.append(BEGIN)
        ids.append(10 + zlib.crc32(token.encode()))
        return len(ids) - 1

    ids.append(BEGIN)
    for word in text.split():
        before, inner, after = re.fullmatch(r"([^\w|]*)([\w|]*)([^\w|]*)", word).groups()
        marks = [place(before)] if before else []
        columns = [place(token) for token in inner.split("|")]
        marks += [place(after)] if after else []
        words.append(Word(word.replace("|", ""), tuple(columns), tuple(marks)))
    ids.append(END)
    ids += [PADDING] * (-len(ids) % length)
    return TokenizedPrompt(text, tuple(ids), tuple(words))
