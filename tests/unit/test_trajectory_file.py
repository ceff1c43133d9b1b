"""Trajectories as files: the same bit for bit, complete or not at all, and never pickle."""

import pytest
import torch
from kept_trajectory import CONDITIONING, SCHEDULE, STATES, assert_equal, make, rewrite
from safetensors.torch import save_file
from toys import IDENTITY, SmoothNoise, noise
from toys import edit_of as sample

from nmg_sampler import (
    InvalidInput,
    PlainGuidance,
    Trajectory,
    invert,
    load_trajectory,
    save_trajectory,
)
from nmg_sampler.files import tensor_file


@pytest.fixture
def path(tmp_path):
    """A path in an empty folder."""
    return tmp_path / "cat.nmg.safetensors"


@pytest.fixture
def saved(path):
    """The path of a complete file."""
    save_trajectory(make(), path)
    return path


def test_a_trajectory_comes_back_bit_for_bit(saved):
    loaded, original = load_trajectory(saved), make()
    assert_equal(loaded.states, original.states)
    assert loaded.schedule == original.schedule
    assert loaded.model == original.model
    assert_equal(loaded.source, original.source)
    assert torch.equal(loaded.noise_mask, original.noise_mask)


def test_a_bare_trajectory_comes_back_bare(path):
    save_trajectory(make(source=None, noise_mask=None), path)
    loaded = load_trajectory(path)
    assert loaded.source is None
    assert loaded.noise_mask is None


def test_a_loaded_trajectory_samples_to_the_same_latent_bit_for_bit(path):
    states = invert(noise(1, 3, 4, 4, dtype=torch.float32), SCHEDULE, SmoothNoise())
    trajectory = Trajectory(states, SCHEDULE, IDENTITY)
    save_trajectory(trajectory, path)
    before, after = (
        sample(t, SmoothNoise(0.5), PlainGuidance(), 5.0)
        for t in (trajectory, load_trajectory(path))
    )
    assert torch.equal(before, after)


def test_half_precision_rounds_the_states_and_nothing_else(path):
    save_trajectory(make(), path, torch.float16)
    loaded = load_trajectory(path)
    assert_equal(loaded.states, STATES.half().float())
    assert_equal(loaded.source, CONDITIONING)


def test_half_precision_is_half_the_size(tmp_path):
    big = make(states=noise(4, 1, 4, 32, 32, dtype=torch.float32), noise_mask=None)
    sizes = []
    for dtype in (torch.float32, torch.float16):
        save_trajectory(big, tmp_path / "x", dtype)
        sizes.append((tmp_path / "x").stat().st_size)
    saved_bytes = 2 * 4 * 4 * 32 * 32
    # The header names the dtype, and is padded to 8 bytes.
    assert sizes[0] - sizes[1] == pytest.approx(saved_bytes, abs=16)


def test_double_precision_states_keep_their_dtype(path):
    save_trajectory(make(states=STATES.double()), path, torch.float64)
    assert load_trajectory(path).states.dtype == torch.float64


def test_saving_leaves_the_trajectory_alone(path):
    trajectory = make()
    before, version = trajectory.states.clone(), trajectory.states._version
    save_trajectory(trajectory, path, torch.float16)
    assert torch.equal(trajectory.states, before)
    assert trajectory.states._version == version
    assert_equal(trajectory.source, CONDITIONING)


def test_two_entries_may_be_the_same_tensor(path):
    shared = noise(1, 7, 5)
    save_trajectory(make(source=[[shared, {"again": shared}], [shared[:, :3], {}]]), path)
    assert_equal(load_trajectory(path).source, [[shared, {"again": shared}], [shared[:, :3], {}]])


def test_conditioning_made_in_inference_mode_can_be_saved(path):
    with torch.inference_mode():
        made = [[noise(1, 7, 5), {}]]
        save_trajectory(make(source=made), path)
        assert_equal(load_trajectory(path).source, made)


def test_a_file_replaces_the_one_before(saved):
    save_trajectory(make(states=STATES + 1), saved)
    assert torch.equal(load_trajectory(saved).states, STATES + 1)
    assert list(saved.parent.iterdir()) == [saved]


class Hook:
    """Something a file cannot hold."""


@pytest.mark.parametrize(
    ("value", "place", "got"),
    [
        ([[noise(1, 7, 5), {"control": Hook()}]], r"source\[0\]\[1\].control", "Hook"),
        ([{"a": [1, {2}]}], r"source\[0\].a\[1\]", "set"),
        ({"bytes": b"x"}, "source.bytes", "bytes"),
        ({1: "a number as a key"}, "source", "dict"),
    ],
    ids=["object", "set", "bytes", "key"],
)
def test_conditioning_that_cannot_be_stored_is_refused_with_place_and_type(path, value, place, got):
    with pytest.raises(InvalidInput, match=rf"^trajectory {place} cannot be stored.*Got {got};"):
        save_trajectory(make(source=value), path)
    assert list(path.parent.iterdir()) == []


def test_what_a_method_keeps_with_a_trajectory_survives(tmp_path):
    extras = {"null_text": noise(3, 1, 5, 4, dtype=torch.float32)}
    path = tmp_path / "extras.nmg.safetensors"
    save_trajectory(make(extras=extras), path)
    loaded = load_trajectory(path).extras
    assert loaded.keys() == extras.keys()
    assert torch.equal(loaded["null_text"], extras["null_text"])
    save_trajectory(make(), path)
    assert load_trajectory(path).extras == {}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "stop"])
def test_a_write_that_breaks_off_leaves_no_file(path, monkeypatch, error):
    def break_off(tensors, file, metadata):
        file.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(tensor_file, "save_file", break_off)
    with pytest.raises(type(error)):
        save_trajectory(make(), path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("broken", ["save_file", "replace"])
def test_a_write_that_breaks_off_leaves_the_old_file_untouched(saved, monkeypatch, broken):
    def refuse(*_):
        raise OSError("no")

    before = saved.read_bytes()
    owner = tensor_file if broken == "save_file" else tensor_file.os
    monkeypatch.setattr(owner, broken, refuse)
    with pytest.raises(OSError, match="no"):
        save_trajectory(make(states=STATES + 1), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_folder_is_the_file_systems_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        save_trajectory(make(), tmp_path / "nowhere" / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused_by_name(path):
    with pytest.raises(InvalidInput, match="^trajectory file cat.nmg.safetensors .*cannot be read"):
        load_trajectory(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_trajectory(tmp_path)


def test_a_file_cut_anywhere_is_refused_by_name(saved):
    whole = saved.read_bytes()
    lengths = [*range(0, len(whole), 97), *range(12), len(whole) - 1]
    for length in lengths:
        saved.write_bytes(whole[:length])
        with pytest.raises(InvalidInput, match="^trajectory file cat.nmg.safetensors"):
            load_trajectory(saved)


@pytest.mark.parametrize(
    "content",
    [b"not safetensors at all", b"\x80\x04]\x94.", bytes(4096), b"\xff" * 64],
    ids=["text", "pickle", "zeros", "ones"],
)
def test_what_is_not_safetensors_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_trajectory(path)


def test_another_safetensors_file_is_refused(path):
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(InvalidInput, match="is no NMG trajectory"):
        load_trajectory(path)


@pytest.mark.parametrize("version", ["2", "0", "one", None], ids=str)
def test_another_version_is_refused_with_both(saved, version):
    rewrite(saved, metadata={"version": version})
    with pytest.raises(InvalidInput, match=rf"another version\. Got {version}; expected version 1"):
        load_trajectory(saved)


def test_a_header_that_lies_about_the_shape_is_refused_with_both(saved):
    rewrite(saved, header={"shape": [4, 2, 3, 5, 4]})
    with pytest.raises(InvalidInput, match=r"\[4, 2, 3, 4, 5\].*\[4, 2, 3, 5, 4\]"):
        load_trajectory(saved)


LEVEL = [0.5, 0.8660254]
BROKEN_HEADERS = {
    "no schedule": {"schedule": None},
    "no levels": {"schedule": {"name": "x"}},
    "levels of words": {
        "schedule": {"name": "x", "levels": [["a", "b"]] * 4, "query_levels": [], "start": 1}
    },
    "too few levels": {
        "schedule": {
            "name": "x",
            "levels": [[1.0, 0.0], LEVEL],
            "query_levels": [LEVEL],
            "start": 1,
        }
    },
    "levels with three numbers": {
        "schedule": {"name": "x", "levels": [[1, 0, 0]] * 4, "query_levels": [], "start": 1}
    },
    "no model": {"model": None},
    "unknown family": {"model": vars(IDENTITY) | {"family": "ve"}},
    "unknown field": {"model": {"family": "vp", "colour": "red"}},
    "unknown dtype": {"dtype": "int8"},
    "source without kind": {"source": {}},
    "source with two kinds": {"source": {"list": [], "dict": {}}},
    "source of an unknown kind": {"source": {"set": [1]}},
    "source with a missing tensor": {"source": {"tensor": "source.99"}},
    "list that is a number": {"source": {"list": 3}},
    "dict that is a list": {"source": {"dict": [1]}},
}


@pytest.mark.parametrize("header", BROKEN_HEADERS.values(), ids=BROKEN_HEADERS)
def test_a_broken_header_is_refused(saved, header):
    rewrite(saved, header=header)
    with pytest.raises(InvalidInput):
        load_trajectory(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 100_000], ids=len)
def test_a_header_that_is_no_json_object_is_refused(saved, text):
    rewrite(saved, metadata={"header": text})
    with pytest.raises(InvalidInput, match="trajectory file"):
        load_trajectory(saved)


@pytest.mark.parametrize("name", ["states", "noise_mask", "source.2"])
def test_a_missing_tensor_is_refused(saved, name):
    rewrite(saved, tensors={name: None})
    with pytest.raises(InvalidInput, match="trajectory file"):
        load_trajectory(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_states_in_a_file_that_are_not_finite_are_refused(saved, value):
    states = STATES.clone()
    states[2, 1, 0, 0, 0] = value
    rewrite(saved, tensors={"states": states})
    with pytest.raises(InvalidInput, match="not finite"):
        load_trajectory(saved)
