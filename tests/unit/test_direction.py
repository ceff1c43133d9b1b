"""Edit directions: means, shifts, and files."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toys import IDENTITY, noise, training_levels

from nmg_sampler import (
    InvalidInput,
    Trajectory,
    load_trajectory,
    official_schedule,
    save_trajectory,
)
from nmg_sampler.editors import EditDirection, SentenceEmbedding, mean_difference
from nmg_sampler.files import load_direction, save_direction

# Float32 rounding of numbers below 10.
CLOSE = {"rtol": 0, "atol": 1e-6}


def sentence(seed, tokens=5, pooled=True, dtype=torch.float32):
    """The embedding of a sentence that no text encoder made."""
    return SentenceEmbedding(
        noise(1, tokens, 6, seed=seed, dtype=dtype),
        noise(1, 3, seed=seed + 100, dtype=dtype) if pooled else None,
    )


def sentences(*seeds, **options):
    return [sentence(seed, **options) for seed in seeds]


def make(pooled=True):
    return mean_difference(
        sentences(1, 2, pooled=pooled), sentences(3, 4, 5, pooled=pooled), "a cat", "a dog\nthe dog"
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cat2dog.nmg-direction.safetensors"


@pytest.fixture
def saved(path):
    """The path of a complete file."""
    save_direction(make(), path)
    return path


def test_a_direction_is_the_difference_of_the_means():
    direction, parts = make(), [sentence(seed) for seed in range(6)]
    for index, value in enumerate((direction.embedding, direction.pooled)):
        source, target = ([parts[k][index] for k in group] for group in ((1, 2), (3, 4, 5)))
        expected = torch.cat(target).mean(0, keepdim=True) - torch.cat(source).mean(0, keepdim=True)
        torch.testing.assert_close(value, expected, **CLOSE)
        assert value.dtype == torch.float32
    assert (direction.source, direction.target) == ("a cat", "a dog\nthe dog")


def test_the_same_sentences_make_exactly_no_direction():
    direction = mean_difference(sentences(1, 2, 3), sentences(1, 2, 3))
    assert not direction.embedding.any()
    assert not direction.pooled.any()


def test_turned_around_it_leads_back():
    there, back = make(), mean_difference(sentences(3, 4, 5), sentences(1, 2))
    assert torch.equal(back.embedding, -there.embedding)
    assert torch.equal(back.pooled, -there.pooled)


def test_sentences_may_come_one_by_one_and_are_summed_up_in_float64():
    big = SentenceEmbedding(torch.full((1, 1, 1), 2.0**24))
    one = SentenceEmbedding(torch.ones(1, 1, 1))
    source = (each for each in [big, one, one, one, one])
    target = (each for each in [big, *[SentenceEmbedding(torch.zeros(1, 1, 1))] * 4])
    assert float(mean_difference(source, target).embedding) == pytest.approx(-0.8)


def test_half_precision_embeddings_make_a_float32_direction():
    direction = mean_difference(
        sentences(1, dtype=torch.float16), sentences(2, dtype=torch.float16)
    )
    assert direction.embedding.dtype == torch.float32


def test_without_pooled_embeddings_there_is_none_in_the_direction():
    assert make(pooled=False).pooled is None


@pytest.mark.parametrize("name", ["source", "target"])
def test_no_sentences_are_refused_by_name(name):
    lists = {"source": sentences(1), "target": sentences(2)} | {name: []}
    with pytest.raises(InvalidInput, match=f"^{name} has no sentences"):
        mean_difference(**lists)


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        (sentences(1) + sentences(2, tokens=10), sentences(3), "source"),
        (sentences(1), sentences(2) + sentences(3, tokens=10), "target"),
        (sentences(1), sentences(2, tokens=10), "target"),
        (sentences(1), sentences(2, pooled=False), "target"),
        (sentences(1) + sentences(2, pooled=False), sentences(3), "source"),
    ],
    ids=["in source", "in target", "between", "pooled between", "pooled in source"],
)
def test_sentences_of_unlike_shapes_are_refused_with_both(source, target, name):
    with pytest.raises(InvalidInput, match=rf"^{name} has a sentence .*\(1, .*expected \(1, 5, 6"):
        mean_difference(source, target)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("strength", [1.0, -2.5])
def test_a_shift_adds_the_direction_to_every_row(rows, strength):
    direction, embedding, pooled = make(), noise(rows, 5, 6), noise(rows, 3)
    moved, moved_pooled = direction.shift(embedding, pooled, strength)
    torch.testing.assert_close(moved, embedding + strength * direction.embedding, **CLOSE)
    torch.testing.assert_close(moved_pooled, pooled + strength * direction.pooled, **CLOSE)
    assert moved.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_strength_of_zero_changes_no_bit_in_any_precision(dtype):
    embedding = noise(2, 5, 6, dtype=dtype)
    moved, _ = make().shift(embedding, strength=0.0)
    assert moved.dtype == dtype
    assert torch.equal(moved, embedding)


def test_a_shift_writes_to_nothing():
    direction, embedding, pooled = make(), noise(1, 5, 6), noise(1, 3)
    given = [embedding, pooled, direction.embedding, direction.pooled]
    before = [(each.clone(), each._version) for each in given]
    direction.shift(embedding, pooled, 2.0)
    for each, (value, version) in zip(given, before, strict=True):
        assert torch.equal(each, value)
        assert each._version == version


@pytest.mark.parametrize("has", ["prompt", "direction", "neither"])
def test_pooled_embeddings_move_where_both_have_one(has):
    direction = make(pooled=has == "direction")
    pooled = noise(1, 3) if has == "prompt" else None
    _, moved = direction.shift(noise(1, 5, 6), pooled)
    assert moved is pooled


@pytest.mark.parametrize(
    ("embedding", "pooled", "words"),
    [
        (noise(1, 10, 6), None, r"embedding\. Got \(1, 5, 6\); expected \(1, 10, 6\)"),
        (noise(2, 5, 7), None, r"embedding\. Got \(1, 5, 6\); expected \(1, 5, 7\)"),
        (noise(1, 5, 6), noise(1, 4), r"pooled embedding\. Got \(1, 3\); expected \(1, 4\)"),
    ],
    ids=["length", "encoder", "pooled"],
)
def test_a_prompt_of_another_shape_is_refused_with_both(embedding, pooled, words):
    with pytest.raises(InvalidInput, match=f"^direction does not fit the prompt's {words}"):
        make().shift(embedding, pooled)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"embedding": torch.zeros(2, 5, 6)}, r"embedding has the wrong form.*\(2, 5, 6\) float32"),
        ({"embedding": torch.zeros(5, 6)}, r"embedding has the wrong form.*\(5, 6\)"),
        ({"embedding": torch.zeros(1, 5, 6).double()}, "embedding has the wrong form.*float64"),
        ({"pooled": torch.zeros(3)}, r"pooled has the wrong form.*\(3,\)"),
        ({"embedding": torch.full((1, 5, 6), float("nan"))}, "embedding is not finite"),
    ],
    ids=["rows", "dimensions", "dtype", "pooled", "nan"],
)
def test_a_direction_of_another_form_is_refused(parts, words):
    with pytest.raises(InvalidInput, match=f"^direction {words}"):
        EditDirection(**{"embedding": torch.zeros(1, 5, 6)} | parts)


@pytest.mark.parametrize("pooled", [True, False])
def test_a_direction_comes_back_bit_for_bit(path, pooled):
    direction = make(pooled)
    save_direction(direction, path)
    loaded = load_direction(path)
    assert torch.equal(loaded.embedding, direction.embedding)
    assert (loaded.source, loaded.target) == (direction.source, direction.target)
    if pooled:
        assert torch.equal(loaded.pooled, direction.pooled)
    else:
        assert loaded.pooled is None
    assert list(path.parent.iterdir()) == [path]


def test_a_direction_made_in_inference_mode_can_be_saved(path):
    with torch.inference_mode():
        direction = make()
        save_direction(direction, path)
    assert torch.equal(load_direction(path).embedding, direction.embedding)


def test_a_write_that_breaks_off_leaves_the_old_file_untouched(saved, monkeypatch):
    def refuse(*_):
        raise OSError("no")

    before = saved.read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        save_direction(make(pooled=False), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_is_refused_by_name(path):
    words = "^direction file cat2dog.nmg-direction.safetensors cannot be used.*cannot be read"
    with pytest.raises(InvalidInput, match=words):
        load_direction(path)


def test_a_file_cut_anywhere_is_refused_by_name_with_what_to_do(saved):
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 31), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(InvalidInput, match=r"^direction file cat2dog.*NMG Edit Direction"):
            load_direction(saved)


def test_other_files_are_refused_both_ways(saved, tmp_path):
    other = tmp_path / "x.safetensors"
    save_file({"embedding": torch.zeros(1, 5, 6)}, other)
    with pytest.raises(InvalidInput, match="is no NMG direction.*written by Save NMG Direction"):
        load_direction(other)
    save_trajectory(
        Trajectory(noise(4, 1, 3, 4, 4), official_schedule(training_levels(), 3), IDENTITY), other
    )
    with pytest.raises(InvalidInput, match="is no NMG direction"):
        load_direction(other)
    with pytest.raises(InvalidInput, match="is no NMG trajectory.*written by Save NMG Trajectory"):
        load_trajectory(saved)


def rewrite(path, metadata=None, header=None, **tensors):
    """The file again with changed parts; None takes a tensor out."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        old = file.metadata()
    if header is not None:
        old["header"] = json.dumps(json.loads(old["header"]) | header)
    parts = {name: value for name, value in (parts | tensors).items() if value is not None}
    save_file(parts, path, old | (metadata or {}))


@pytest.mark.parametrize("version", ["2", "0", "one"])
def test_another_version_is_refused_with_both(saved, version):
    rewrite(saved, {"version": version})
    with pytest.raises(InvalidInput, match=rf"another version\. Got {version}; expected version 1"):
        load_direction(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"header": {"shapes": {"embedding": [1, 6, 5]}}},
        {"header": {"shapes": {"embedding": [1, 5, 6], "colour": [1]}}},
        {"header": {"shapes": {}}},
        {"header": {"shapes": None}},
        {"metadata": {"header": "{}"}},
        {"metadata": {"header": "{"}},
        {"pooled": None},
        {"embedding": torch.zeros(2, 5, 6)},
        {"embedding": torch.full((1, 5, 6), float("inf"))},
    ],
    ids=str,
)
def test_header_and_tensors_that_do_not_agree_are_refused(saved, changes):
    rewrite(saved, **changes)
    with pytest.raises(InvalidInput, match="^direction file"):
        load_direction(saved)
