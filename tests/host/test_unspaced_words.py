"""Edits by words of Japanese and Chinese, from NMG Prompts to the edited picture."""

import pytest
import torch
from host_models import clip_of_every_token, first

pytestmark = pytest.mark.host_surface

STEPS = 3
SCENE = 11
# (source, target, word of the source, word of the target): one word changes, of 3 tokens to 2.
EDITS = {
    "Japanese": ("黒い背景に赤の三角形", "黒い背景に金の三角形", "赤", "金"),
    "Chinese": ("黑色背景上的红色三角形", "黑色背景上的金色三角形", "红", "金"),
}


@pytest.fixture(scope="module")
def clip(pack):
    return clip_of_every_token()


@pytest.fixture(scope="module")
def prompts(nodes, clip):
    return lambda text: first(nodes["NMGPrompts"].execute(clip, text))


@pytest.fixture(scope="module")
def latent(nodes, demo):
    with torch.inference_mode():
        picture, _ = nodes["NMGDemoPicture"].execute(SCENE).result
        return {"samples": demo[2].encode(picture[..., :3])}


@pytest.fixture(scope="module", params=EDITS)
def edit(request, nodes, demo, prompts, latent):
    """(texts, words, sample): the edit of a picture under a pair of prompts with given settings."""
    source, target, *words = EDITS[request.param]
    with torch.inference_mode():
        trajectory = first(
            nodes["NMGInvert"].execute(demo[0], prompts(source), latent, STEPS, "normal")
        )

    def sample(editor):
        with torch.inference_mode():
            made = nodes["NMGSample"].execute(
                demo[0], trajectory, prompts(target), prompts(""), 3.0, 0.0, 0.0, "fused",
                editor=editor,
            )  # fmt: skip
        return first(made)["samples"]

    return (source, target), words, sample


@pytest.fixture
def editor(nodes, clip):
    """(editor, alignment) of Prompt-to-Prompt."""

    def call(texts=("", ""), **settings):
        inputs = {"mode": "auto", "cross_replace": 1.0, "self_replace": 0.5}
        inputs |= {"blend_words": "", "reweight": "", **settings}
        texts = {"source_prompt": texts[0], "target_prompt": texts[1]}
        return nodes["NMGPromptToPrompt"].execute(clip=clip, **texts, **inputs).result

    return call


def test_the_words_of_nmg_prompts_are_those_of_the_texts(edit, editor):
    texts, (old, new), sample = edit
    told, alignment = editor(texts)
    assert alignment == f"{old} -> {new}"
    assert torch.equal(sample(told), sample(editor()[0]))
    assert not torch.equal(sample(told), sample(None))


def by_hand(first, count):
    """(77, 77): of `count` columns the 3 from `first` on become 2, all others stay."""
    mapping = torch.zeros(77, 77)
    for column in range(count + 2):  # with begin and end
        if not first <= column < first + 3:
            mapping[column, column - (column > first)] = 1
    mapping[first : first + 3, first : first + 2] = 1 / 2
    for column in range(count + 1, 77):
        mapping[max(column, count + 2), column] = 1
    return mapping


def test_only_the_word_that_changed_is_mapped_anew(edit, editor, library):
    """The picture is that of an alignment written by hand, and not that of the whole sentence."""
    texts, (_, new), sample = edit
    told, _ = editor(texts)
    (given,) = told.edits
    words = {word.text: word.columns for word in given.target.words}
    hand = by_hand(words[new][0], len(told.source.tokens))

    def aligned(mapping):
        alignment = library.Alignment(mapping, torch.ones(77), "")
        edits = (library.PromptEdit(given.target, alignment, given.weights, 1.0),)
        return sample(library.PromptToPrompt(edits, 0.5))

    assert torch.equal(aligned(hand), sample(told))
    one_word = hand.clone()
    spoken = len(told.source.tokens)
    one_word[1 : spoken + 1, 1:spoken] = 1 / (spoken - 1)
    assert not torch.equal(aligned(one_word), sample(told))


def test_settings_are_read_as_they_are_typed(edit, editor):
    texts, (_, new), sample = edit
    plain = {
        "reweight": f"{new}:2.0, 三角形:0.5",
        "blend_words": "三角形, 三角形",
        "word_schedules": f"{new}:0.4, 背景:0.2-0.6",
    }
    wide = {
        "reweight": f"{new}：２．０、三角形：０．５。",
        "blend_words": "三角形，三角形；",
        "word_schedules": f"「{new}」：０．４，背景：０．２～０．６",
    }
    made = sample(editor(texts, **plain)[0])
    assert torch.equal(sample(editor(texts, **wide)[0]), made)
    assert torch.equal(sample(editor(**wide)[0]), made)
    assert not torch.equal(sample(editor(texts)[0]), made)
