"""Help pages piece by piece, and where one in another language differs from the English one."""

import re
import unicodedata

CODE = re.compile(r"`([^`]+)`")
NUMBER = re.compile(r"(?<![A-Za-z0-9.])-?\d+(?:\.\d+)?")
URL = re.compile(r"https?://[\w./-]+")
FENCE = re.compile(r"```.*?```", re.DOTALL)
CELL = re.compile(r"(?<!\\)\|")
PICTURE = re.compile(r"^!\[.*$", re.MULTILINE)
NEW_PIECE = re.compile(r"#|!\[|\||[*-] |\d+\. ")


def pieces(text):
    """Headings, pictures, table rows, list items and paragraphs, each without line breaks."""
    found, open_piece = [], False
    for line in FENCE.sub("", text).splitlines():
        if not line.strip():
            open_piece = False
        elif open_piece and not NEW_PIECE.match(line):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
            open_piece = not line.startswith("#")
    return found


def kind(piece):
    """The mark that a piece begins with; of a table row also how many cells it has."""
    if piece.startswith("|"):
        return f"row of {len(CELL.split(CODE.sub('', piece))) - 2}"
    return piece.split(" ")[0] if NEW_PIECE.match(piece) else "paragraph"


def kinds(text):
    return [kind(piece) for piece in pieces(text) if not piece.startswith("![")]


def tables(text):
    """The first column of every table."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[CELL.split(row)[1].strip() for row in table.splitlines()] for table in found]


def facts(piece):
    """What reads the same in every language."""
    return {*CODE.findall(piece), *URL.findall(piece)}


def numbers(piece):
    return set(NUMBER.findall(URL.sub("", CODE.sub("", piece))))


def name_in(identifier, english, texts):
    """How the interface calls an input or an output: in English where it has no other word.

    Args:
        english, texts: what the node says in English and in another language, perhaps in part.
    """
    if identifier in english["inputs"]:
        said = english["inputs"][identifier]["name"]
        return texts.get("inputs", {}).get(identifier, {}).get("name", said)
    for index, output in english["outputs"].items():
        if output["name"].lower() == identifier:
            return texts.get("outputs", {}).get(index, {}).get("name", output["name"])
    return identifier


def cells(piece):
    """The parts of a piece that Markdown reads on their own, with nothing left of code."""
    parts = CELL.split(piece) if piece.startswith("|") else [re.sub(r"^\* ", "", piece)]
    return [CODE.sub("`", part) for part in parts]


def is_mark(character):
    return unicodedata.category(character)[0] in "PS"


def shown_stars(cell):
    """Stars that Markdown shows instead of opening or closing an emphasis in turn.

    In `**name (x)**y` the second ones close nothing: no letter may follow a mark and stars.
    """
    for turn, stars in enumerate(re.finditer(r"\*+", f" {cell} ")):
        before, after = (f" {cell} "[at] for at in (stars.start() - 1, stars.end()))
        inner, outer = (before, after) if turn % 2 else (after, before)
        if inner.isspace() or (is_mark(inner) and not (outer.isspace() or is_mark(outer))):
            yield f"{before}{stars[0]}{after}"


def differences(page, other, english, texts):
    """What is wrong with `other`, a page in another language, next to the English `page`.

    Args:
        english, texts: what the node says in English and in the other language, perhaps in part.
    """
    if kinds(other) != kinds(page):
        return ["it is not built as the English page"]
    wrong = []
    if FENCE.findall(other) != FENCE.findall(page):
        wrong.append("its examples are not the same")
    if PICTURE.findall(other) != PICTURE.findall(page):
        wrong.append("its pictures are not the same")
    for given, made in zip(pieces(page), pieces(other), strict=True):
        if facts(made) != facts(given) or not numbers(given) <= numbers(made):
            wrong.append(f"other names, links or numbers than in English: {made}")
    for given, made in zip(tables(page), tables(other), strict=True):
        if given[0] in ("input", "output"):
            for cell, translated in zip(given, made, strict=True):
                names = [name_in(name, english, texts) for name in CODE.findall(cell)]
                if any(name.lower() not in translated.lower() for name in names):
                    wrong.append(f"not as the interface says it: {translated}")
    return wrong
