"""Weights, schedules and blend words, from a user's text to columns and steps."""

import pytest
import torch
from toy_prompts import toy_prompt

from nmg_sampler import InvalidInput
from nmg_sampler.words import (
    align,
    blend_columns,
    find,
    find_each,
    parse_pairs,
    self_steps,
    word_schedule,
    word_weights,
)

PROMPT = toy_prompt("an oil painting of a cy|an tiger, oil", length=16)  # columns 1..7, 8 + 9, 10
OIL, PAINTING, CYAN, TIGER = (2, 10), 3, (6, 7), 8


def ones_but(**columns):
    weights = torch.ones(16)
    for column, weight in columns.items():
        weights[int(column.removeprefix("at"))] = weight
    return weights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ones_but()),
        ("tiger:2.0", ones_but(at8=2)),
        ("tiger:2.0, oil painting:1.5", ones_but(at8=2, at2=1.5, at3=1.5)),
        ("cyan : -1 ; Tiger:0,", ones_but(at6=-1, at7=-1, at8=0)),
        ("oil:2\noil painting:3", ones_but(at2=3, at3=3, at10=2)),
        (" , ;", ones_but()),
    ],
)
def test_weights_stand_at_the_columns_of_their_words(text, expected):
    torch.testing.assert_close(word_weights(PROMPT, text), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiger：2.0，oil painting：1.5", ones_but(at8=2, at2=1.5, at3=1.5)),
        ("tiger：２．５；cyan：－１。", ones_but(at8=2.5, at6=-1, at7=-1)),
        ("（tiger）：２、oil：−０．５", ones_but(at8=2, at2=-0.5, at10=-0.5)),
        ("tiger　：　２　，", ones_but(at8=2)),
    ],
)
def test_weights_are_read_as_a_chinese_or_japanese_keyboard_types_them(text, expected):
    torch.testing.assert_close(word_weights(PROMPT, text), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        "tiger",
        "tiger:",
        "tiger：２，５",
        "tiger：二",
        "tiger：２。５",
        "tiger２",
        "tiger:two",
        "tiger:nan",
        "tiger:-inf",
        "tiger:1,5",
        "tiger 2",
    ],
)
def test_unreadable_weights_are_refused_with_the_text(text):
    with pytest.raises(InvalidInput) as raised:
        word_weights(PROMPT, text)
    assert str(raised.value).startswith("reweight cannot be read")
    assert repr(text) in str(raised.value)
    assert "tiger:2.0, oil painting:1.5" in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda text: word_weights(PROMPT, text + ":1"),
        lambda text: word_schedule(PROMPT, 1.0, text + ":1", 4),
        lambda text: blend_columns(PROMPT, PROMPT, text),
    ],
)
def test_words_that_are_not_in_the_prompt_are_refused(call):
    with pytest.raises(InvalidInput, match="lion.*tiger"):
        call("lion")


def test_a_weight_without_a_word_is_refused():
    with pytest.raises(InvalidInput, match="names no word"):
        word_weights(PROMPT, ":2")


def test_the_last_colon_parts_words_from_value():
    assert parse_pairs("embedding:style:0.5, b : 1-2", "x", "y") == [
        ("embedding:style", "0.5"),
        ("b", "1-2"),
    ]


@pytest.mark.parametrize(
    ("default", "steps", "active"),
    [
        (0.8, 50, range(40)),
        (0.4, 50, range(20)),
        (1.0, 50, range(50)),
        (1, 50, range(50)),
        (0.0, 50, range(0)),
        ((0.2, 0.6), 50, range(10, 30)),  # int(10.2) and int(30.6) of 51 rows
        ((0.5, 0.5), 50, range(0)),
        (0.5, 1, range(1)),  # the table has 2 rows
        (0.8, 5, range(4)),
    ],
)
def test_the_schedule_counts_steps_as_the_published_code(default, steps, active):
    expected = torch.tensor([float(step in active) for step in range(steps)])
    schedule = word_schedule(PROMPT, default, "", steps)
    assert schedule.shape == (steps, 16)
    torch.testing.assert_close(schedule, expected[:, None].expand(-1, 16), rtol=0, atol=0)


def test_words_have_their_own_schedule():
    schedule = word_schedule(PROMPT, 0.8, "tiger:0.4, cyan:0.2 - 0.6; oil:0", 50)
    expected = torch.zeros(50, 16)
    expected[:40] = 1
    expected[:, [TIGER, *CYAN, *OIL]] = 0
    expected[:20, TIGER] = 1
    expected[10:30, list(CYAN)] = 1
    torch.testing.assert_close(schedule, expected, rtol=0, atol=0)
    wide = word_schedule(PROMPT, 0.8, "tiger：０．４，cyan：０．２～０．６；oil：０", 50)
    assert torch.equal(wide, schedule)
    assert torch.equal(word_schedule(PROMPT, 0.8, "cyan:0.2〜0.6、tiger:.4。oil:0", 50), schedule)


@pytest.mark.parametrize("text", ["tiger", "tiger:x", "tiger:-0.5", "tiger:0.2-", "tiger:1e-1"])
def test_an_unreadable_schedule_is_refused_with_the_text(text):
    with pytest.raises(InvalidInput, match="word_schedule cannot be read") as raised:
        word_schedule(PROMPT, 0.8, text, 50)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("default", "text", "argument"),
    [
        (1.2, "", "cross_replace"),
        (-0.1, "", "cross_replace"),
        ((0.6, 0.2), "", "cross_replace"),
        (float("nan"), "", "cross_replace"),
        (0.8, "tiger:0.6-0.2", "word_schedule"),
        (0.8, "tiger:2", "word_schedule"),
    ],
)
def test_what_is_no_part_of_a_run_is_refused(default, text, argument):
    with pytest.raises(InvalidInput, match=f"{argument} is no part of a run"):
        word_schedule(PROMPT, default, text, 50)


@pytest.mark.parametrize(
    ("fraction", "steps", "expected"),
    [
        (0.7, 50, range(35)),
        (0.0, 50, range(0)),
        (1.0, 50, range(50)),
        ((0.2, 0.5), 50, range(10, 25)),
        (0.5, 3, range(1)),
    ],
)
def test_self_attention_counts_steps_without_the_extra_row(fraction, steps, expected):
    assert self_steps(steps, fraction) == expected


def test_self_attention_is_asked_for_a_part_of_the_run():
    with pytest.raises(InvalidInput, match="self_replace is no part of a run.*0 to 2"):
        self_steps(50, 2.0)


SOURCE = toy_prompt("a cat with a hat")  # columns 1..5
TARGET = toy_prompt("a big ti|ger with a hat")  # columns 1, 2, 3 + 4, 5..7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ((), ())),
        ("cat, tiger", ((2,), (3, 4))),
        ("hat", ((5,), (7,))),
        ("cat, big tiger; hat, hat;", ((2, 5), (2, 3, 4, 7))),
        ("hat; cat, hat", ((2, 5), (7,))),
        ("cat，big tiger；hat、hat。", ((2, 5), (2, 3, 4, 7))),
    ],
)
def test_blend_words_are_looked_for_in_their_own_prompt(text, expected):
    assert blend_columns(SOURCE, TARGET, text) == expected


@pytest.mark.parametrize("text", ["cat, tiger, hat", ", tiger", "cat,", "hat; cat, "])
def test_unreadable_blend_words_are_refused_with_the_text(text):
    with pytest.raises(InvalidInput, match="blend_words cannot be read") as raised:
        blend_columns(SOURCE, TARGET, text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "prompt", "missing"), [("tiger, tiger", "source", "tiger"), ("cat", "target", "cat")]
)
def test_a_blend_word_in_the_wrong_prompt_is_refused(text, prompt, missing):
    with pytest.raises(InvalidInput, match=rf"blend_words \({prompt} prompt\).*'{missing}'"):
        blend_columns(SOURCE, TARGET, text)


# --- Words without spaces -------------------------------------------------------------------------

JAPANESE = toy_prompt("赤 い 猫 が と 赤 レンガ", length=16)  # columns 1..7
JOINED = toy_prompt("祈 りが 青 い", length=16)  # an encoder may read two characters as one


@pytest.mark.parametrize(
    ("phrase", "columns"),
    [
        ("赤い", (1, 2)),
        ("赤", (1, 6)),
        ("「赤い猫」", (1, 2, 3)),
        ("赤い 猫", (1, 2, 3)),
        ("赤レンガ", (6, 7)),
        ("猫が、と", (3, 4, 5)),
    ],
)
def test_a_word_of_several_cut_words_is_found(phrase, columns):
    assert find(JAPANESE, phrase) == columns


@pytest.mark.parametrize("phrase", ["レン", "い赤", "猫と", "赤い犬", "とても"])
def test_a_word_that_only_begins_like_those_of_the_prompt_is_not_found(phrase):
    with pytest.raises(InvalidInput, match=f"{phrase}.*some of: 赤, い, 猫"):
        find(JAPANESE, phrase)


def test_what_the_encoder_reads_together_is_found_together():
    assert find(JOINED, "祈りが") == (1, 2)
    assert find(JOINED, "りが青い") == (2, 3, 4)
    with pytest.raises(InvalidInput, match="some of: 祈, りが, 青, い"):
        find(JOINED, "祈り")


def test_spaces_still_part_words():
    with pytest.raises(InvalidInput, match="oilpainting"):
        find(PROMPT, "oilpainting")
    assert find(PROMPT, "oil painting") == (2, 3)


def test_words_to_look_at_are_listed_with_any_comma():
    assert find_each(JAPANESE, "赤い、猫，赤レンガ\nが。と") == {
        "赤い": (1, 2),
        "猫": (3,),
        "赤レンガ": (6, 7),
        "が": (4,),
        "と": (5,),
    }


def test_the_alignment_is_told_as_its_language_is_written():
    source, target = toy_prompt("赤 い 猫 が 走 る"), toy_prompt("大 き な 犬 が 走 る")
    assert align(source, target, "auto").summary == "赤い猫 -> 大きな犬"
    mixed = align(toy_prompt("a 小 猫"), toy_prompt("a big red 犬"), "auto")
    assert mixed.summary == "小猫 -> big red 犬"
