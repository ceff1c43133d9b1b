"""Texts of the web interface: complete in every language, and readable by its formatter."""

import json
import re

import pytest

from tools.locales import LANGUAGES, english, path_of

# What vue-i18n takes for a placeholder, a linked message or a choice of plurals.
FORMATTED = set("{}@|")
RANGE = re.compile(r"(-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)")
translated = pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])


@pytest.fixture(scope="module")
def texts():
    return {name: json.loads(path_of(name).read_text("utf-8")) for name in LANGUAGES}


def flat(value, path=()):
    """Every text by its path."""
    if isinstance(value, dict):
        return {k: v for name, one in value.items() for k, v in flat(one, (*path, name)).items()}
    return {path: value}


def test_the_english_texts_are_those_of_the_nodes(pack, texts):
    """Run tools/locales.py after a text has changed."""
    assert texts["en"] == english()


@translated
def test_a_language_has_every_text_and_no_other(texts, language):
    assert flat(texts[language]).keys() == flat(texts["en"]).keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_empty_or_taken_for_a_format(texts, language):
    for path, text in flat(texts[language]).items():
        assert text.strip(), path
        assert not FORMATTED & set(text), path


@translated
def test_tooltips_are_translated_and_say_the_same_range(texts, language):
    source, target = (flat(texts[name]) for name in ("en", language))
    for path, text in target.items():
        if path[-1] == "tooltip":
            assert text != source[path], path
            for number in {n for pair in RANGE.findall(source[path]) for n in pair}:
                assert number in text, (path, number)
