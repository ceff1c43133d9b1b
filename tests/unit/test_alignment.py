"""Which source column a target column takes its attention from: closed forms and laws."""

from functools import cache

import pytest
import torch
from published_alignment import official_replacement
from toy_prompts import toy_prompt

from nmg_sampler import InvalidInput
from nmg_sampler.words import AlignmentMode, align

# Sums of shares such as 1/3 in float32.
ROUNDING = {"rtol": 0, "atol": 1e-6}

modes = pytest.mark.parametrize("mode", AlignmentMode, ids=lambda mode: mode.value)


def taken(alignment):
    """{target column: {source column: share}} of the columns that are copied."""
    columns = torch.arange(len(alignment.copied))[alignment.copied == 1].tolist()
    return {
        j: {i: round(float(share), 6) for i, share in enumerate(alignment.mapping[:, j]) if share}
        for j in columns
    }


def one_to_one(*pairs, length=12):
    """{target column: {source column: 1}}; the columns that are not named map to their own."""
    return {**{j: {j: 1} for j in range(length)}, **{j: {i: 1} for i, j in pairs}}


def without(columns, expected):
    return {j: origin for j, origin in expected.items() if j not in columns}


def pair_of(source, target, length=12):
    return toy_prompt(source, length), toy_prompt(target, length)


# --- A prompt with itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cat",
        'a cy|an cat, a cat and a ch|eck|ered "cat".',
        "one two three four five six seven eight nine ten",  # a full chunk
        "one two three four five six seven eight nine ten el|even " * 3,
    ],
    ids=["empty", "word", "sentence", "full", "chunks"],
)
@pytest.mark.parametrize("mode", [*(mode.value for mode in AlignmentMode), "official"])
def test_a_prompt_with_itself_is_the_identity(mode, text):
    prompt = toy_prompt(text)
    made = (
        official_replacement(prompt, prompt) if mode == "official" else align(prompt, prompt, mode)
    )
    torch.testing.assert_close(made.mapping, torch.eye(len(prompt.ids)), rtol=0, atol=0)
    assert made.copied.eq(1).all()
    assert made.summary == "nothing changed"


@modes
def test_the_edited_map_of_equal_prompts_is_the_sources(mode):
    prompt = toy_prompt("a cy|an cat, a cat")
    made = align(prompt, prompt, mode)
    source, target = torch.rand(2, 3, 5, 12, generator=torch.Generator().manual_seed(0))
    edited = (source @ made.mapping) * made.copied + target * (1 - made.copied)
    assert torch.equal(edited, source)


# --- Replace --------------------------------------------------------------------------------------


def test_replace_is_the_identity_where_token_counts_are_equal():
    made = align(*pair_of("a r|ed cat sits", "a cy|an dog sits"), "replace")
    assert taken(made) == one_to_one()


def test_replace_shares_a_token_out_and_moves_what_follows():
    # a cat sits E: 0..4 -> a ti|ger sits E: 0..5
    made = align(*pair_of("a cat sits", "a ti|ger sits"), "replace")
    half = {2: 0.5}
    assert taken(made) == {**one_to_one((3, 4), (4, 5)), 2: half, 3: half}


def test_replace_adds_tokens_up_and_moves_what_follows():
    # a ti|ger sits E: 0..5 -> a cat sits E: 0..4, whose first padding 5 is the source's end
    made = align(*pair_of("a ti|ger sits", "a cat sits"), "replace")
    assert taken(made) == {**one_to_one((4, 3), (5, 4), (6, 5)), 2: {2: 1, 3: 1}}


def test_replace_spreads_every_token_over_every_token():
    # ch|eck|ered cat E: 1..5 -> cy|an cat E: 1..4
    made = align(*pair_of("ch|eck|ered cat", "cy|an cat"), "replace")
    halves = {1: 0.5, 2: 0.5, 3: 0.5}
    assert taken(made) == {**one_to_one((4, 3), (5, 4), (6, 5)), 1: halves, 2: halves}


def test_replace_goes_on_after_several_changes():
    made = align(*pair_of("red cat on red mat", "cy|an cat on blue ti|ger"), "replace")
    shared = {1: 0.5}
    expected = {1: shared, 2: shared, 6: {5: 0.5}, 7: {5: 0.5}}
    moved = one_to_one((2, 3), (3, 4), (4, 5), (6, 8))
    assert taken(made) == {**moved, **expected}


def test_replace_keeps_punctuation_apart_from_its_word():
    # cat , sits E: 1..4 -> cy|an , sits E: 1..5
    made = align(*pair_of("cat, sits", "cy|an, sits"), "replace")
    assert taken(made) == {**one_to_one((2, 3), (3, 4), (4, 5)), 1: {1: 0.5}, 2: {1: 0.5}}


def test_replace_copies_new_punctuation_with_its_word():
    made = align(*pair_of("cat sits", "cat, sits"), "replace")
    assert taken(made) == {**one_to_one((2, 3), (3, 4)), 1: {1: 0.5}, 2: {1: 0.5}}


@pytest.mark.parametrize("function", [lambda *p: align(*p, "replace"), official_replacement])
def test_replace_wants_equal_numbers_of_words(function):
    with pytest.raises(InvalidInput, match="2 words .* 4 in .*'auto'"):
        function(*pair_of("a cat", "a cat on mats"))


# --- Replace as published -------------------------------------------------------------------------


def test_official_replacement_is_the_right_one_where_token_counts_are_equal():
    prompts = pair_of("a r|ed cat, sits", "a cy|an dog, sits")
    ours, official = align(*prompts, "replace"), official_replacement(*prompts)
    torch.testing.assert_close(official.mapping, ours.mapping, rtol=0, atol=0)


def test_official_replacement_takes_the_wrong_columns_after_the_last_change():
    prompts = pair_of("red cat on mats", "cy|an ti|ger on mats")
    # red cat on mats E: 1..5 -> cy|an ti|ger on mats E: 1..7; "on" 5 should come from 3.
    wrong = {**one_to_one(), 1: {1: 0.5}, 2: {1: 0.5}, 3: {2: 0.5}, 4: {2: 0.5}}
    assert taken(official_replacement(*prompts)) == wrong
    assert taken(align(*prompts, "replace"))[5] == {3: 1}


def test_official_replacement_is_right_before_the_last_change():
    made = official_replacement(*pair_of("red cat on mat", "cy|an cat on rug"))
    assert [taken(made)[j] for j in (3, 4, 5, 6)] == [{2: 1}, {3: 1}, {4: 1}, {6: 1}]


def test_official_replacement_counts_punctuation_as_part_of_a_changed_word():
    # cat , sits E: 1..4 -> cy|an , sits E: 1..5
    third = dict.fromkeys((1, 2), round(1 / 3, 6))
    made = official_replacement(*pair_of("cat, sits", "cy|an, sits"))
    assert taken(made) == {**one_to_one(), 1: third, 2: third, 3: third}


def test_official_replacement_leaves_out_the_last_columns_when_the_prompt_gets_shorter():
    made = official_replacement(*pair_of("a ti|ger sits", "a cat sits"))
    assert taken(made) == {**one_to_one(), 2: {2: 1, 3: 1}, 11: {}}


# --- Refine ---------------------------------------------------------------------------------------


def test_refine_leaves_added_tokens_their_own_map():
    # a cat E: 0..3 -> a big fl|uffy cat E: 0..6
    made = align(*pair_of("a cat", "a big fl|uffy cat"), "refine")
    assert taken(made) == without((2, 3, 4), one_to_one((2, 5), (3, 6)))


def test_refine_never_takes_padding_from_words():
    # a big fl|uffy cat E: 0..6 -> a cat E: 0..3
    made = align(*pair_of("a big fl|uffy cat", "a cat"), "refine")
    assert taken(made) == one_to_one((5, 2), (6, 3), (7, 4), (7, 5), (7, 6))


def test_refine_takes_another_token_for_an_added_one():
    made = align(*pair_of("a cat sits", "a dog sits"), "refine")
    assert taken(made) == without((2,), one_to_one())


@pytest.mark.parametrize(
    ("source", "target", "pairs"),
    [
        ("cat cat", "cat", [(1, 1)]),  # the last one is removed
        ("cat", "cat cat", [(1, 1)]),  # the last one is added
        ("cat dog", "dog cat", [(2, 1)]),
        ("cat dog cat", "dog cat dog", [(2, 1), (3, 2)]),
    ],
)
def test_refine_decides_ties_as_published(source, target, pairs):
    prompts = pair_of(source, target)
    made = taken(align(*prompts, "refine"))
    assert [(*made[j], j) for j in prompts[1].tokens if j in made] == pairs


def longest_common(a, b):
    """Length of the longest common subsequence, by its recursion."""

    @cache
    def length(i, j):
        if not (i and j):
            return 0
        if a[i - 1] == b[j - 1]:
            return 1 + length(i - 1, j - 1)
        return max(length(i - 1, j), length(i, j - 1))

    return length(len(a), len(b))


def test_refine_aligns_as_many_equal_tokens_as_there_are():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        texts = [
            " ".join("abc"[k] for k in torch.randint(3, (size,), generator=generator))
            for size in torch.randint(1, 10, (2,), generator=generator)
        ]
        source, target = pair_of(*texts)
        made = taken(align(source, target, "refine"))
        pairs = [(*made[j], j) for j in target.tokens if j in made]
        assert len(pairs) == longest_common(
            *(tuple(p.ids[c] for c in p.tokens) for p in (source, target))
        )
        assert all(source.ids[i] == target.ids[j] for i, j in pairs)
        assert pairs == sorted(pairs)
        assert len({i for i, _ in pairs}) == len(pairs)


# --- Auto -----------------------------------------------------------------------------------------


def test_auto_keeps_what_follows_a_change_of_token_count():
    prompts = pair_of("a cat sits", "a ti|ger sits")
    assert taken(align(*prompts, "auto")) == taken(align(*prompts, "replace"))


def test_auto_leaves_added_words_and_punctuation_their_own_map():
    # a building E: 0..3 -> a building , smiling E: 0..5
    made = align(*pair_of("a building", "a building, smi|ling"), "auto")
    assert taken(made) == without((3, 4, 5), one_to_one((3, 6)))


def test_auto_drops_removed_words():
    made = align(*pair_of("a big cat, sleeping", "a cat"), "auto")
    # a big cat , sleeping E: 0..6
    assert taken(made) == one_to_one((3, 2), (6, 3), (7, 4), (7, 5), (7, 6))


def test_auto_replaces_one_word_by_several():
    # a cat sits E: 0..4 -> a big ti|ger sits E: 0..6
    made = align(*pair_of("a cat sits", "a big ti|ger sits"), "auto")
    third = {2: round(1 / 3, 6)}
    assert taken(made) == {**one_to_one((3, 5), (4, 6)), 2: third, 3: third, 4: third}


def test_auto_replaces_several_words_by_one():
    made = align(*pair_of("a big fat cat sits", "a tiger sits"), "auto")
    # a big fat cat sits E: 0..6 -> a tiger sits E: 0..4
    assert taken(made) == {
        **one_to_one((5, 3), (6, 4), (7, 5), (7, 6)),
        2: {2: 1, 3: 1, 4: 1},
    }


def test_auto_replaces_equally_many_words_one_by_one():
    made = align(*pair_of("a red cat", "a cy|an dog"), "auto")
    assert taken(made) == {**one_to_one((3, 4), (4, 5)), 2: {2: 0.5}, 3: {2: 0.5}}


def test_auto_ignores_case_and_matches_equal_punctuation():
    # cat , dog E: 1..4 -> a Cat , dog E: 1..5
    source, target = pair_of("cat, dog", "a cat, dog")
    assert taken(align(source, target, "auto")) == without(
        (1,), one_to_one((1, 2), (2, 3), (3, 4), (4, 5))
    )


def test_auto_gives_replaced_words_their_punctuation():
    # cat , sits E: 1..4 -> cy|an . sits E: 1..5: the comma has no counterpart
    made = align(*pair_of("cat, sits", "cy|an. sits"), "auto")
    assert taken(made) == without((3,), {**one_to_one((3, 4), (4, 5)), 1: {1: 0.5}, 2: {1: 0.5}})


# --- More than one chunk --------------------------------------------------------------------------


def test_a_change_in_one_chunk_moves_words_into_the_next():
    # Chunks of 6. B a cat on my E | B mat E -> B a ti|ger on E | B my mat E
    made = align(*pair_of("a cat on my mat", "a ti|ger on my mat", 6), "auto")
    assert taken(made) == {
        **one_to_one((3, 4), (4, 7), (7, 8), (8, 9)),
        2: {2: 0.5},
        3: {2: 0.5},
    }


def test_a_new_chunk_shares_begin_and_end_with_the_sources_last():
    # B a cat E P P -> B a cat on my E | B mat E P P P
    made = align(*pair_of("a cat", "a cat on my mat", 6), "auto")
    assert taken(made) == {
        0: {0: 0.5}, 1: {1: 1}, 2: {2: 1}, 5: {3: 0.5},
        6: {0: 0.5}, 8: {3: 0.5}, 9: {4: 0.5}, 10: {4: 0.5}, 11: {5: 0.5},
    }  # fmt: skip


def test_a_dropped_chunk_adds_its_begin_and_end_to_the_last():
    # B a cat on my E | B mat E P P P -> B a cat E P P
    made = align(*pair_of("a cat on my mat", "a cat", 6), "auto")
    # The full first chunk has no padding: its end token is shared out.
    third = round(1 / 3, 6)
    assert taken(made) == {
        0: {0: 1, 6: 1}, 1: {1: 1}, 2: {2: 1},
        3: {5: third, 8: 1}, 4: {5: third, 10: 1}, 5: {5: third, 11: 1},
    }  # fmt: skip


# --- Laws -----------------------------------------------------------------------------------------

LONG = "a w|on|der|ful day in the middle of su|mmer, with my friends and the old dog"
PAIRS = {
    "grown": ("a cat sits", "a big ch|eck|ered cat sits, happily"),
    "shrunk": ("a big ch|eck|ered cat sits, happily", "cat sits"),
    "replaced": ("a red cat", "the ch|eck|ered dog"),
    "other": ("a cat", "some words, none alike"),
    "from nothing": ("", "a cat"),
    "to nothing": ("a cat", ""),
    "longer": ("a day in summer", LONG),
    "shorter": (LONG, "a day in summer"),
    "long": (LONG, LONG.replace("day", "bu|sy night")),
}  # fmt: skip
pairs = pytest.mark.parametrize("texts", PAIRS.values(), ids=list(PAIRS))
free_modes = pytest.mark.parametrize("mode", ["auto", "refine"])


@pairs
@free_modes
def test_every_copied_column_comes_from_somewhere_and_every_other_from_nowhere(texts, mode):
    made = align(*pair_of(*texts), mode)
    assert torch.equal(made.mapping.sum(0) > 0, made.copied == 1)
    assert made.copied.logical_or(made.mapping.sum(0) == 0).all()
    assert (made.mapping >= 0).all()


@pairs
@free_modes
def test_words_come_from_words_and_what_surrounds_them_from_its_like(texts, mode):
    source, target = pair_of(*texts)
    mapping = align(source, target, mode).mapping
    kinds = [
        torch.tensor(
            [
                0 if column in prompt.tokens else 3 - prompt.ids[column]
                for column in range(len(prompt.ids))
            ]
        )
        for prompt in (source, target)
    ]
    # Word, begin (2), end (1) and padding (3); a full chunk's end stands in for its padding.
    alike = kinds[0][:, None] == kinds[1][None]
    stands_in = (kinds[0] == 1)[:, None] & (kinds[1] == 3)[None]
    assert not mapping[~(alike | stands_in)].any()


@pairs
@free_modes
def test_the_attention_of_a_token_is_kept_or_dropped_never_multiplied(texts, mode):
    source, target = pair_of(*texts)
    shares = align(source, target, mode).mapping.sum(1)
    begins_and_ends = [column for frame in source.frames for column in frame[:2]]
    kept = shares[list(source.tokens)]
    torch.testing.assert_close(
        shares[begins_and_ends], torch.ones(len(begins_and_ends)), **ROUNDING
    )
    torch.testing.assert_close(kept, kept.round().clamp(0, 1), **ROUNDING)


@pytest.mark.parametrize(
    "texts",
    [PAIRS["replaced"], (LONG, LONG.replace("w|on|der|ful", "sad")), ("a b c", "x y, z|w|v")],
    ids=["short", "chunks", "all"],
)
def test_replace_copies_every_column_and_drops_no_word(texts):
    source, target = pair_of(*texts)
    made = align(source, target, "replace")
    assert made.copied.eq(1).all()
    assert made.mapping.sum(0).gt(0).all()
    kept = made.mapping.sum(1)[list(source.tokens)]
    torch.testing.assert_close(kept, torch.ones_like(kept), **ROUNDING)


# --- In words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "mode", "summary"),
    [
        ("a cat sits", "a ti|ger sits", "auto", "cat -> tiger"),
        ("a cat sits", "a ti|ger sits", "replace", "cat -> tiger"),
        ("a cat sits", "a ti|ger sits", "refine", "added tiger (2 tokens); removed cat"),
        ("a building", "a building, smiling", "auto", "added smiling (2 tokens)"),
        ("a building", "a building.", "auto", "added punctuation (1 token)"),
        ("a big fat cat", "a cat", "auto", "removed big, fat"),
        ("a big cat", "a ti|ny red dog", "auto", "big cat -> tiny red dog"),
        ("red cat", "blue dog", "auto", "red -> blue; cat -> dog"),
        ("A cat.", "a Dog, here", "auto", "cat -> dog here; added punctuation (1 token)"),
    ],
)
def test_the_summary_says_what_changes(source, target, mode, summary):
    assert align(*pair_of(source, target), mode).summary == summary


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidInput, match="mode is unknown. Got 'Auto'.*'replace'"):
        align(*pair_of("a", "a"), "Auto")
