"""Words that travel with a prompt: kept as they are, compared, and enough for an editor."""

import json

import pytest
import torch
from toy_prompts import toy_prompt as prompt

from nmg_sampler import InvalidInput, MasaCtrl, Pix2PixZero, align
from nmg_sampler.contract import BranchPrompts
from nmg_sampler.editors import PromptToPromptSettings
from nmg_sampler.words import blend_columns, from_plain, to_plain, word_weights

CAT, TIGER, DOG = prompt("a cat sits"), prompt("a tiger sits"), prompt("a dog sits")
EVERYTHING = PromptToPromptSettings(
    "replace", 0.6, (0.1, 0.4), "cat, tiger", "tiger:2.0", "tiger:0.3", 0.4, 0.1
)


def run_of(*words):
    """The prompts of a run whose words are these; None for one whose words are not known."""
    return BranchPrompts(tuple(len(CAT.ids) for _ in words), words)


def test_a_prompt_comes_back_from_plain_text_and_numbers():
    plain = json.loads(json.dumps(to_plain(TIGER)))
    assert from_plain(plain) == TIGER


def test_prompts_are_the_same_where_they_are_known_to_be_or_not_known():
    for known in ((CAT, TIGER), (None, TIGER), (CAT, None), (None, None)):
        run_of(*known).check_are((CAT, TIGER))


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ((CAT, DOG), "'a tiger sits' in the editor, 'a dog sits' in positive"),
        ((DOG, TIGER), "'a cat sits' in the editor, 'a dog sits' in the trajectory"),
    ],
)
def test_another_prompt_of_the_same_length_is_refused_with_both_texts(known, told):
    editor = EVERYTHING.between(CAT, [TIGER])
    with pytest.raises(InvalidInput, match=f"another prompt than the one connected. Got {told}"):
        editor.check(run_of(*known))
    editor.check(run_of(CAT, TIGER))
    editor.check(BranchPrompts.unknown((len(CAT.ids),) * 2))


def test_the_settings_become_the_editor_that_the_words_make():
    editor = EVERYTHING.bound(run_of(CAT, TIGER))
    (edit,) = editor.edits
    assert edit.target == TIGER
    assert torch.equal(edit.alignment.mapping, align(CAT, TIGER, "replace").mapping)
    assert torch.equal(edit.weights, word_weights(TIGER, "tiger:2.0"))
    assert (edit.cross_replace, edit.word_schedules, editor.self_replace) == (
        0.6,
        "tiger:0.3",
        (0.1, 0.4),
    )
    assert editor.blend.words == (blend_columns(CAT, TIGER, "cat, tiger"),)
    assert (editor.blend.threshold, editor.blend.start) == (0.4, 0.1)


def test_each_target_has_its_own_line():
    settings = PromptToPromptSettings(reweight="tiger:2.0\ndog:3.0")
    first, second = settings.bound(run_of(CAT, TIGER, DOG)).edits
    assert torch.equal(first.weights, word_weights(TIGER, "tiger:2.0"))
    assert torch.equal(second.weights, word_weights(DOG, "dog:3.0"))
    with pytest.raises(InvalidInput, match="2 lines for 1 target"):
        settings.bound(run_of(CAT, TIGER))


@pytest.mark.parametrize(
    ("words", "where"), [((None, TIGER), "the trajectory"), ((CAT, None), "positive")]
)
def test_without_texts_and_words_it_says_how_to_get_them(words, where):
    for editor in (PromptToPromptSettings(), MasaCtrl(mask_words="cat, tiger")):
        with pytest.raises(InvalidInput, match=f"Got {where} without its words.*NMG Prompts"):
            editor.bound(run_of(*words))


def test_mask_words_are_found_in_the_prompts_of_the_run():
    bound = MasaCtrl(mask_words="cat, tiger").bound(run_of(CAT, TIGER))
    assert bound.words == (blend_columns(CAT, TIGER, "cat, tiger"),)
    bound.check(run_of(CAT, TIGER))
    with pytest.raises(InvalidInput, match="another prompt"):
        bound.check(run_of(CAT, DOG))


def test_an_editor_that_needs_no_words_is_bound_to_itself():
    mask = torch.ones(1, 1, 4, 4)
    for editor in (
        Pix2PixZero(),
        MasaCtrl(),
        MasaCtrl(mask_words="cat, tiger", source_mask=mask, target_mask=mask),
        EVERYTHING.between(CAT, [TIGER]),
    ):
        assert editor.bound(run_of(None, None)) is editor
