"""A help page in another language says what the English page says, piece by piece.

A page that lacks is no error: the interface then shows the node's description. To see which lack,
run `python tools/locales.py --missing`.
"""

import json

import pytest
from help_pages import cells, differences, pieces, shown_stars

from tools.locales import DOCS, LANGUAGES, path_of

TEXTS = {name: json.loads(path_of(name).read_text("utf-8")) for name in LANGUAGES}
PAGES = sorted((path.parent.name, path.stem) for path in DOCS.glob("*/*.md"))
TRANSLATED = [(node, language) for node, language in PAGES if language != "en"]

each_page = pytest.mark.parametrize(("node", "language"), PAGES)
each_translation = pytest.mark.parametrize(("node", "language"), TRANSLATED)


def page(node, language):
    return (DOCS / node / f"{language}.md").read_text("utf-8")


def texts(node, language):
    return TEXTS.get(language, {}).get(node, {})


def test_every_node_has_an_english_page_and_no_other_has_one():
    assert sorted(node for node, language in PAGES if language == "en") == sorted(TEXTS["en"])
    assert {node for node, _ in PAGES} == {folder.name for folder in DOCS.iterdir()}


@each_page
def test_the_title_is_the_name_of_the_node(node, language):
    english = TEXTS["en"][node]["display_name"]
    assert (
        pieces(page(node, language))[0] == f"# {texts(node, language).get('display_name', english)}"
    )


@each_translation
def test_a_translated_page_says_what_the_english_one_says(node, language):
    made = page(node, language)
    assert differences(page(node, "en"), made, TEXTS["en"][node], texts(node, language)) == []


@each_page
def test_no_stars_are_shown_and_nothing_is_struck_out(node, language):
    """Of two `~` in a piece, as in 0~1 and 2~3, Markdown strikes out what is between them."""
    for piece in pieces(page(node, language)):
        for cell in cells(piece):
            assert not list(shown_stars(cell)), cell
            assert cell.count("*") % 2 == 0, cell
            assert cell.replace("\\~", "").count("~") < 2, cell


ENGLISH = {"inputs": {"steps": {"name": "steps"}}, "outputs": {"0": {"name": "latent"}}}
PAGE = """# Node

![Node](NMGNode/node.png)

What it does; 50 steps are usual, see https://example.org/paper.

| input | meaning |
|---|---|
| `steps` | 1 to 1000 |

```
a = b
```
"""
KOREAN = PAGE.replace("What it does; 50 steps are usual, see", "하는 일. 보통 50,").replace(
    "| `steps`", "| **단계** `steps`"
)
WORDS = {"inputs": {"steps": {"name": "단계"}}}


@pytest.mark.parametrize("words", [WORDS, {}], ids=["translated", "no texts"])
def test_a_right_page_passes_with_and_without_texts_of_the_interface(words):
    assert differences(PAGE, KOREAN, ENGLISH, words) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("50", "40", "other names, links or numbers"),
        ("example.org", "example.com", "other names, links or numbers"),
        ("`steps`", "`step`", "other names, links or numbers"),
        ("a = b", "a = c", "its examples"),
        ("node.png", "other.png", "its pictures"),
        ("단계", "걸음", "not as the interface says it"),
        ("| 1 to 1000 |\n", "| 1 to 1000 |\n| `seed` | 0 |\n", "not built as the English"),
    ],
)
def test_a_wrong_page_is_found(old, new, problem):
    assert old in KOREAN
    wrong = differences(PAGE, KOREAN.replace(old, new), ENGLISH, WORDS)
    assert any(problem in each for each in wrong)
