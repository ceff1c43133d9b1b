"""Texts of the interface in other languages: what is there is right, what lacks is only listed."""

import json
import re

import pytest

from tools import locales
from tools.locales import LANGUAGES, flat, missing, path_of

# What vue-i18n takes for a placeholder, a linked message or a choice of plurals.
FORMATTED = set("{}@|")
RANGE = re.compile(r"(-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)")
TEXTS = {name: json.loads(path_of(name).read_text("utf-8")) for name in LANGUAGES}


def wrong(english, other):
    """What is wrong with the texts of a language; one that lacks is not."""
    source, found = flat(english), []
    for path, text in flat(other).items():
        said = source.get(path)
        if said is None:
            found.append(f"{path}: no node says this")
        elif not text.strip() or FORMATTED & set(text):
            found.append(f"{path}: empty, or read as a format")
        elif path.endswith(".tooltip"):
            numbers = {number for pair in RANGE.findall(said) for number in pair}
            if text == said or not all(number in text for number in numbers):
                found.append(f"{path}: in English, or of another range")
    return found


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_the_texts_of_a_language_are_right(language):
    assert wrong(TEXTS["en"], TEXTS[language]) == []


def test_no_english_text_is_empty_or_taken_for_a_format():
    for path, text in flat(TEXTS["en"]).items():
        assert text.strip(), path
        assert not FORMATTED & set(text), path


ENGLISH = {
    "NMGNode": {
        "display_name": "NMG Node",
        "inputs": {"steps": {"name": "steps", "tooltip": "How many, 1 to 1000."}},
    },
    "NMGNew": {"display_name": "NMG New"},
}
KOREAN = {
    "NMGNode": {
        "display_name": "NMG 노드",
        "inputs": {"steps": {"name": "단계", "tooltip": "1~1000의 수."}},
    }
}


def changed(path, text):
    """KOREAN with one text put in another's place, or beside it."""
    made = json.loads(json.dumps(KOREAN))
    *above, last = path.split(".")
    place = made
    for name in above:
        place = place.setdefault(name, {})
    place[last] = text
    return made


def test_what_lacks_is_listed_and_not_wrong():
    assert wrong(ENGLISH, KOREAN) == wrong(ENGLISH, {}) == []
    assert missing(ENGLISH, KOREAN) == ["NMGNew.display_name"]
    assert missing(ENGLISH, ENGLISH) == []
    assert len(missing(ENGLISH, {})) == 4


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("NMGGone.display_name", "옛 노드"),
        ("NMGNode.inputs.seed.name", "씨앗"),
        ("NMGNode.display_name", " "),
        ("NMGNode.display_name", "노드 {x}"),
        ("NMGNode.inputs.steps.tooltip", "How many, 1 to 1000."),
        ("NMGNode.inputs.steps.tooltip", "1~100의 수."),
    ],
)
def test_what_is_there_and_wrong_is_found(path, text):
    (found,) = wrong(ENGLISH, changed(path, text))
    assert found.startswith(f"{path}: ")


def test_the_tool_lists_per_language_what_lacks(tmp_path, monkeypatch, capsys):
    for name in LANGUAGES:
        folder = tmp_path / "locales" / name
        folder.mkdir(parents=True)
        texts = KOREAN if name == "ko" else ENGLISH
        (folder / "nodeDefs.json").write_text(json.dumps(texts), "utf-8")
    for node, names in (("NMGNode", LANGUAGES), ("NMGNew", ["en"])):
        (tmp_path / "docs" / node).mkdir(parents=True)
        for name in names:
            (tmp_path / "docs" / node / f"{name}.md").touch()
    monkeypatch.setattr(locales, "ROOT", tmp_path)
    monkeypatch.setattr(locales, "DOCS", tmp_path / "docs")
    monkeypatch.setattr("sys.argv", ["locales.py", "--missing"])
    assert locales.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "ko: 1 text, 1 help page",
        "  NMGNew.display_name",
        "  docs/NMGNew/ko.md",
        "ja: 0 texts, 1 help page",
        "  docs/NMGNew/ja.md",
        "zh: 0 texts, 1 help page",
        "  docs/NMGNew/zh.md",
    ]
