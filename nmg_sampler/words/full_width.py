"""What is typed with a Chinese or Japanese keyboard, as settings are read."""

import unicodedata

_MARKS = str.maketrans("，、､；。｡：（）　", ",,,;;;:() ")
_VALUES = str.maketrans("−〜", "-~")


def narrow(text: str) -> str:
    """A setting with plain commas, semicolons, colons and brackets; its words stay as they are."""
    return text.translate(_MARKS)


def narrow_value(text: str) -> str:
    """A number or a part of a run, in plain digits and signs."""
    return unicodedata.normalize("NFKC", text).translate(_VALUES)
