"""Words on their way with the CONDITIONING: known where they are right, and nowhere else."""

import importlib

import pytest
import torch
from host_models import first

STEPS = 4
SCENE = 11
SOURCE = "a green triangle on a dotted black background"
TARGET = "a red triangle on a dotted black background"
OTHER = "a blue triangle on a dotted black background"
LONG = ", ".join([OTHER] * 10)  # more than the encoder's 77 columns


@pytest.fixture(scope="module")
def encode(nodes, demo):
    """NMG Prompts: the words travel with the prompt."""
    return lambda text: first(nodes["NMGPrompts"].execute(demo[1], text))


@pytest.fixture(scope="module")
def plain(demo):
    """CLIP Text Encode: they do not."""
    host_nodes = importlib.import_module("nodes")
    return lambda text: host_nodes.CLIPTextEncode().encode(demo[1], text)[0]


@pytest.fixture(scope="module")
def words_of(pack):
    """The words of each target in a CONDITIONING."""
    words = importlib.import_module("nmg_pack.nodes.host.models.words")
    several = importlib.import_module("nmg_pack.nodes.host.network.several")
    return lambda prompt, pictures=1: [
        words.words_of(target) for target in several.targets_of(prompt, pictures)
    ]


@pytest.fixture(scope="module")
def invert(nodes, demo):
    def call(prompt):
        with torch.inference_mode():
            picture, _ = nodes["NMGDemoPicture"].execute(SCENE).result
            latent = {"samples": demo[2].encode(picture[..., :3])}
            return first(nodes["NMGInvert"].execute(demo[0], prompt, latent, STEPS, "normal"))

    return call


@pytest.fixture(scope="module")
def trajectory(invert, encode):
    return invert(encode(SOURCE))


@pytest.fixture
def sample(nodes, demo, plain):
    def call(trajectory, positive, editor=None):
        result = nodes["NMGSample"].execute(
            demo[0], trajectory, positive, plain(""), 3.0, 1.5, 5000.0, "fused", editor=editor
        )
        return first(result)["samples"]

    return call


@pytest.fixture
def prompt_to_prompt(nodes, demo):
    def call(source="", target="", **settings):
        inputs = {"clip": demo[1], "source_prompt": source, "target_prompt": target}
        inputs |= {"mode": "auto", "cross_replace": 0.8, "self_replace": 0.5}
        return nodes["NMGPromptToPrompt"].execute(
            **{**inputs, "blend_words": "", "reweight": "", **settings}
        )

    return call


@pytest.fixture
def attention_maps(nodes, demo):
    def call(trajectory, **inputs):
        inputs = {"prompt": "", "words": "triangle", "levels": 2, **inputs}
        return nodes["NMGAttentionMaps"].execute(demo[0], trajectory=trajectory, **inputs)

    return call


def test_the_prompt_itself_is_that_of_clip_text_encode(encode, plain):
    ((ours, _),), ((theirs, _),) = encode(SOURCE), plain(SOURCE)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("other", [OTHER, LONG], ids=["as rows", "of another length"])
def test_each_line_has_its_words(encode, words_of, other):
    known = words_of(encode(f"{TARGET}\n{other}"))
    assert [each.text for each in known] == [TARGET, other]
    assert words_of(encode(TARGET))[0].text == TARGET


def test_prompt_to_prompt_without_texts_is_that_with_them_bit_for_bit(
    prompt_to_prompt, trajectory, sample, encode
):
    settings = {"reweight": "red:1.5", "blend_words": "triangle"}
    told = first(prompt_to_prompt(SOURCE, TARGET, **settings))
    untold, alignment = prompt_to_prompt(clip=None, **settings).result
    assert "connected prompts" in alignment
    edits = [sample(trajectory, encode(TARGET), editor) for editor in (told, untold)]
    assert torch.equal(*edits)
    assert not torch.equal(edits[0], sample(trajectory, encode(TARGET)))


def test_masactrl_finds_its_mask_words_in_the_connected_prompts(
    nodes, demo, trajectory, sample, encode
):
    texts = {"clip": demo[1], "source_prompt": SOURCE, "target_prompt": TARGET}
    editors = [
        first(nodes["NMGMasaCtrl"].execute(1, 0, mask_words="triangle", **given))
        for given in (texts, {})
    ]
    assert torch.equal(*(sample(trajectory, encode(TARGET), editor) for editor in editors))


def test_attention_maps_need_neither_text_nor_clip(demo, trajectory, attention_maps):
    told = attention_maps(trajectory, clip=demo[1], prompt=SOURCE).result
    untold = attention_maps(trajectory).result
    assert torch.equal(told[0], untold[0])
    assert told[2] == untold[2] == "triangle"


def test_a_text_changed_in_one_place_is_refused_with_both(
    library, demo, trajectory, sample, encode, prompt_to_prompt, attention_maps
):
    editor = first(prompt_to_prompt(SOURCE, TARGET))
    with pytest.raises(library.InvalidInput, match=f"{TARGET}' in the editor, '{OTHER}' in posit"):
        sample(trajectory, encode(OTHER), editor)
    editor = first(prompt_to_prompt(OTHER, TARGET))
    with pytest.raises(library.InvalidInput, match=f"{OTHER}' in the editor, '{SOURCE}' in the tr"):
        sample(trajectory, encode(TARGET), editor)
    with pytest.raises(library.InvalidInput, match="not the one the picture was inverted with"):
        attention_maps(trajectory, clip=demo[1], prompt=OTHER)


def test_a_prompt_of_another_node_is_compared_by_length_as_before(
    library, invert, sample, plain, prompt_to_prompt
):
    trajectory = invert(plain(SOURCE))
    editor = first(prompt_to_prompt(SOURCE, TARGET))
    assert torch.isfinite(sample(trajectory, plain(OTHER), editor)).all()
    untold = first(prompt_to_prompt(clip=None))
    with pytest.raises(library.InvalidInput, match="Got the trajectory without its words.*NMG Pro"):
        sample(trajectory, plain(TARGET), untold)


def test_what_another_node_does_to_the_embedding_takes_the_words_away(encode, words_of):
    host_nodes = importlib.import_module("nodes")
    mixed = host_nodes.ConditioningAverage().addWeighted(encode(TARGET), encode(OTHER), 0.5)[0]
    longer = host_nodes.ConditioningConcat().concat(encode(TARGET), encode(OTHER))[0]
    combined = host_nodes.ConditioningCombine().combine(encode(TARGET), encode(OTHER))[0]
    for changed in (mixed, longer, combined):
        assert words_of(changed) == [None]
    area = host_nodes.ConditioningSetAreaStrength().append(encode(TARGET), 0.9)[0]
    assert words_of(area)[0].text == TARGET


def test_one_prompt_for_each_picture_of_a_batch_is_not_one_prompt(encode, words_of):
    assert words_of(encode(f"{TARGET}\n{OTHER}"), 2) == [None]
    twice = encode(f"{TARGET}\n{TARGET}")
    assert words_of(twice, 2)[0].text == TARGET
    (embedding, options), other = twice[0], encode(OTHER)[0][0]
    changed = [[torch.cat([embedding[:1], other]), options]]
    assert words_of(changed, 2) == [None]


def test_the_words_are_in_the_file_of_a_trajectory(library, trajectory, words_of, tmp_path):
    library.save_trajectory(trajectory, tmp_path / "x.nmg.safetensors")
    loaded = library.load_trajectory(tmp_path / "x.nmg.safetensors")
    assert words_of(loaded.source) == words_of(trajectory.source)
    assert words_of(loaded.source)[0].text == SOURCE
