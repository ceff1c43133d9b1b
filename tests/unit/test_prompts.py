"""Words and columns of a prompt."""

import pytest
from toy_prompts import toy_prompt

from nmg_sampler import InvalidInput
from nmg_sampler.words import TokenizedPrompt, Word, find, normalised

PAINTING = toy_prompt("An oil painting of a cy|an Vase, oil on can|vas.", length=16)


@pytest.mark.parametrize(
    ("phrase", "columns"),
    [
        ("painting", (3,)),
        ("cyan", (6, 7)),
        ("vase", (8,)),
        ("VASE,", (8,)),
        ("oil", (2, 10)),
        ("oil painting", (2, 3)),
        ("  cyan   vase ", (6, 7, 8)),
        ("vase oil", (8, 10)),
        ("canvas", (12, 13)),
        ('"an"', (1,)),
    ],
)
def test_words_are_found_by_case_and_punctuation_free_spelling(phrase, columns):
    assert find(PAINTING, phrase) == columns


@pytest.mark.parametrize("phrase", ["an oil vase", "paint", "painting oil", "canvas an", "tiger"])
def test_words_that_are_not_there_are_refused_with_the_words_that_are(phrase):
    with pytest.raises(InvalidInput, match=r"an, oil, painting, of, a, cyan, vase") as raised:
        find(PAINTING, phrase, "reweight")
    assert str(raised.value).startswith("reweight ")
    assert repr(phrase) in str(raised.value)


@pytest.mark.parametrize("phrase", ["", "  "])
def test_no_word_is_refused(phrase):
    with pytest.raises(InvalidInput, match="phrase names no word"):
        find(PAINTING, phrase)


def test_an_empty_prompt_says_so():
    with pytest.raises(InvalidInput, match="the prompt is empty"):
        find(toy_prompt(""), "cat")


def test_a_repetition_that_overlaps_itself_is_found_whole():
    assert find(toy_prompt("no no no yes"), "no no") == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Building,", "building"),
        ("(cat)", "cat"),
        ("black-and-White", "black-and-white"),
        ("dog's", "dog's"),
        ("&", "&"),
        ("cafe\u0301", "cafe\u0301"),
        ("\u0915\u0940", "\u0915\u0940"),
    ],
)
def test_names_drop_case_and_outer_punctuation_but_no_accents(text, name):
    assert normalised(text) == name


def test_tokens_of_a_word_include_its_punctuation_in_order():
    assert Word('"cat"', (4,), (3, 5)).tokens == (3, 4, 5)


def test_frames_are_what_is_left_of_each_chunk():
    # Columns 0..5 and 6..11; the first chunk is full.
    prompt = toy_prompt("one two three four five", length=6)
    assert prompt.tokens == (1, 2, 3, 4, 7)
    assert prompt.frames == ((0, 5), (6, 8, 9, 10, 11))


def test_a_begin_token_inside_a_word_starts_no_chunk():
    prompt = TokenizedPrompt("<begin>", (1, 1, 2, 0), (Word("<begin>", (1,)),))
    assert prompt.frames == ((0, 2, 3),)
