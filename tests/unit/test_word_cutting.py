"""Where a word ends, and what of it is punctuation."""

import pytest

from nmg_sampler.words import Atom, cut, join


@pytest.mark.parametrize(
    ("piece", "parts"),
    [
        ("cat", ["cat"]),
        ("building,", ["building", "+,"]),
        ('"cat".', ['+"', "cat", '+".']),
        ("black-and-white", ["black-and-white"]),
        ("dog's", ["dog's"]),
        ("masterpiece,best;1girl", ["masterpiece", "+,", "best", "+;", "1girl"]),
        ('cat,"dog"', ["cat", '+,"', "dog", '+"']),
        ("1,000", ["1,000"]),
        ("1,a", ["1", "+,", "a"]),
        ("&", ["+&"]),
        ("_x_", ["+_", "x", "+_"]),
        ("cafe\u0301,", ["cafe\u0301", "+,"]),
    ],
)
def test_a_piece_is_cut_at_its_outer_punctuation_and_at_separators(piece, parts):
    assert [f"+{text}" if mark else text for text, mark in cut(piece)] == parts


def joined(*atoms):
    """Words of one-token atoms: " cat" after a space, "+," punctuation."""
    made = [
        Atom(text.lstrip(" +"), (7,), "+" in text[:2], not text.startswith(" ")) for text in atoms
    ]
    return [(word.text, word.columns, word.marks) for word in join(made, range(len(atoms)))]


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        ([" a", " cat"], [("a", (0,), ()), ("cat", (1,), ())]),
        ([" cat", "+,", " dog"], [("cat,", (0,), (1,)), ("dog", (2,), ())]),
        ([" cat", "+,", "dog"], [("cat,", (0,), (1,)), ("dog", (2,), ())]),
        ([" cat", " +,", " dog"], [("cat,", (0,), (1,)), ("dog", (2,), ())]),
        ([' +"', "cat", '+"'], [('"cat"', (1,), (0, 2))]),
        ([" a", ' +"', "cat"], [("a", (0,), ()), ('"cat', (2,), (1,))]),
        ([" cat", " +&", " dog"], [("cat", (0,), ()), ("&", (1,), ()), ("dog", (2,), ())]),
        ([" a", " +.", "b"], [("a.", (0,), (1,)), ("b", (2,), ())]),
        ([" tig", "er"], [("tig", (0,), ()), ("er", (1,), ())]),
        ([" well", "+-", "known"], [("well-known", (0, 1, 2), ())]),
    ],
)
def test_atoms_are_joined_to_words(atoms, words):
    assert joined(*atoms) == words


def test_a_word_of_several_tokens_has_several_columns():
    (word,) = join([Atom("cyan", (1, 2), False, False), Atom("!", (3,), True, True)], (4, 5, 8))
    assert (word.columns, word.marks) == ((4, 5), (8,))
