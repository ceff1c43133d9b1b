"""A help page in another language says what the English page says, piece by piece."""

import json
import re
import unicodedata

import pytest

from tools.host_server import ROOT
from tools.locales import LANGUAGES, path_of

DOCS = ROOT / "web" / "docs"
TEXTS = {name: json.loads(path_of(name).read_text("utf-8")) for name in LANGUAGES}
NODES = sorted(TEXTS["en"])
OTHERS = [name for name in LANGUAGES if name != "en"]
CODE = re.compile(r"`([^`]+)`")
NUMBER = re.compile(r"(?<![A-Za-z0-9.])-?\d+(?:\.\d+)?")
URL = re.compile(r"https?://[\w./-]+")
FENCE = re.compile(r"```.*?```", re.DOTALL)
CELL = re.compile(r"(?<!\\)\|")
NEW_PIECE = re.compile(r"#|!\[|\||[*-] |\d+\. ")

each_page = pytest.mark.parametrize("node", NODES)
each_language = pytest.mark.parametrize("language", LANGUAGES)
each_translation = pytest.mark.parametrize("language", OTHERS)


def page(node, language):
    return (DOCS / node / f"{language}.md").read_text("utf-8")


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


def name_in(node, identifier, language):
    """How the interface calls an input or an output in a language."""
    english, other = TEXTS["en"][node], TEXTS[language][node]
    if identifier in english["inputs"]:
        return other["inputs"][identifier]["name"]
    for index, output in english["outputs"].items():
        if output["name"].lower() == identifier:
            return other["outputs"][index]["name"]
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


def test_every_node_has_a_folder_of_pages_and_no_other_has():
    assert sorted(folder.name for folder in DOCS.iterdir() if folder.is_dir()) == NODES


@each_language
@each_page
def test_a_node_has_a_help_page(node, language):
    assert (DOCS / node / f"{language}.md").is_file()


@each_language
@each_page
def test_the_title_is_the_name_of_the_node(node, language):
    assert pieces(page(node, language))[0] == f"# {TEXTS[language][node]['display_name']}"


@each_translation
@each_page
def test_a_page_is_built_as_the_english_one(node, language):
    assert kinds(page(node, language)) == kinds(page(node, "en"))


@each_translation
@each_page
def test_a_page_has_the_same_pictures_and_examples(node, language):
    english, other = page(node, "en"), page(node, language)
    assert FENCE.findall(other) == FENCE.findall(english)
    pictures = re.compile(r"^!\[.*$", re.MULTILINE)
    assert pictures.findall(other) == pictures.findall(english)


@each_translation
@each_page
def test_a_piece_has_the_same_names_links_and_numbers(node, language):
    for english, other in zip(pieces(page(node, "en")), pieces(page(node, language)), strict=True):
        assert facts(other) == facts(english), other
        assert numbers(english) <= numbers(other), other


@each_translation
@each_page
def test_a_table_gives_the_name_that_the_interface_shows(node, language):
    for english, other in zip(tables(page(node, "en")), tables(page(node, language)), strict=True):
        if english[0] in ("input", "output"):
            for cell, translated in zip(english, other, strict=True):
                for identifier in CODE.findall(cell):
                    assert name_in(node, identifier, language).lower() in translated.lower()


@each_language
@each_page
def test_no_stars_are_shown_and_nothing_is_struck_out(node, language):
    """Of two `~` in a piece, as in 0~1 and 2~3, Markdown strikes out what is between them."""
    for piece in pieces(page(node, language)):
        for cell in cells(piece):
            assert not list(shown_stars(cell)), cell
            assert cell.count("*") % 2 == 0, cell
            assert cell.replace("\\~", "").count("~") < 2, cell
