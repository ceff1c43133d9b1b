"""docs/compatibility.md: every line is held by a test that there is."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = {"works", "refused", "said", "not tried"}


def rows():
    """(what, of, result, held by) of every line of the tables with these four columns."""
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == 4 and cells[0] not in ("what", "---"):
            yield cells


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_has_lines():
    assert len([*rows()]) > 3


@pytest.mark.parametrize("row", [*rows()], ids=lambda row: row[0][:60])
def test_a_line_says_what_comes_of_it_and_a_test_holds_it(row):
    _, _, result, held = row
    assert result in RESULTS
    assert bool(held) == (result != "not tried")
    for name in filter(None, held.split(", ")):
        path, _, test = name.strip("`").partition("::")
        assert test in names_in(path), f"{path} has no {test}"
