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
        ("一只红色的老虎", ["一", "只", "红", "色", "的", "老", "虎"]),
        ("赤い猫が座る", ["赤", "い", "猫", "が", "座", "る"]),
        ("カラフルなTシャツ", ["カラフル", "な", "T", "シャツ"]),
        ("らーめん、コーヒー。", ["らー", "め", "ん", "+、", "コーヒー", "+。"]),
        ("か\u3099く人々", ["か\u3099", "く", "人", "々"]),
        ("「猫」、『犬』", ["+「", "猫", "+」、", "+『", "犬", "+』"]),
        ("Tom，Jerry：３人", ["Tom", "+，", "Jerry", "+：", "３", "人"]),
        ("猫-犬…cat-dog", ["猫", "+-", "犬", "+…", "cat-dog"]),
        ("호랑이가,고양이", ["호랑이가", "+,", "고양이"]),
        ("1,000匹", ["1,000", "匹"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
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
        ([" 赤", "い", "+、", "猫"], [("赤", (0,), ()), ("い、", (1,), (2,)), ("猫", (3,), ())]),
        (
            [" 赤", "+「", "猫", "+」", "犬"],
            [("赤", (0,), ()), ("「猫」", (2,), (1, 3)), ("犬", (4,), ())],
        ),
        ([" +「", "+『", "猫"], [("「『猫", (2,), (0, 1))]),
        ([" 猫", "+-", "犬"], [("猫-", (0,), (1,)), ("犬", (2,), ())]),
        ([' +"', "猫", '+"'], [('"猫"', (1,), (0, 2))]),
    ],
)
def test_atoms_are_joined_to_words(atoms, words):
    assert joined(*atoms) == words


def test_a_word_of_several_tokens_has_several_columns():
    (word,) = join([Atom("cyan", (1, 2), False, False), Atom("!", (3,), True, True)], (4, 5, 8))
    assert (word.columns, word.marks) == ((4, 5), (8,))
