"""A trajectory file with anything changed in it is refused, or what it holds is still the same."""

import random
from functools import partial

import pytest
import torch
from kept_trajectory import assert_equal, make, rewrite

from nmg_sampler import InvalidInput, load_trajectory, save_trajectory

CHANGES = 60  # of each kind, each at another place


def flip_a_bit(content, at, rng):
    content[at] ^= 1 << rng.randrange(8)


def write_a_byte(content, at, rng):
    content[at] = rng.choice(b'\0\xff0129"{}[],:- ')


def cut_out(content, at, rng):
    del content[at : at + rng.randint(1, 40)]


def put_in(content, at, rng):
    content[at:at] = rng.randbytes(rng.randint(1, 40))


def swap(content, at, rng):
    other = rng.randrange(len(content))
    content[at], content[other] = content[other], content[at]


def copy_over(content, at, rng):
    other, length = rng.randrange(len(content)), rng.randint(1, 40)
    content[at : at + length] = content[other : other + length]


KINDS = [flip_a_bit, write_a_byte, cut_out, put_in, swap, copy_over]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a complete file, and what is in it."""
    path = tmp_path_factory.mktemp("whole") / "cat.nmg.safetensors"
    save_trajectory(make(extras={"null_text": torch.ones(2, 3)}), path)
    return path.read_bytes(), load_trajectory(path)


def outcome(path, original):
    """Whether the file is refused by its name; it holds what it held before if not refused."""
    try:
        loaded = load_trajectory(path)
    except InvalidInput as error:
        return str(error).startswith("trajectory file cat.nmg.safetensors")
    for name in ("states", "source", "noise_mask", "extras"):
        assert_equal(getattr(loaded, name), getattr(original, name))
    assert (loaded.schedule, loaded.model) == (original.schedule, original.model)
    return False


def in_the_table(content, rng):
    """A place in the first bytes: lengths, names, the header."""
    return rng.randrange(8 + int.from_bytes(content[:8], "little"))


def anywhere(content, rng):
    return rng.randrange(len(content))


@pytest.mark.parametrize("place", [in_the_table, anywhere])
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_refused_or_the_same(whole, tmp_path, place, kind):
    path = tmp_path / "cat.nmg.safetensors"
    before, original = whole
    rng = random.Random(f"{kind.__name__} {place.__name__}")
    refused = 0
    for _ in range(CHANGES):
        content = bytearray(before)
        kind(content, place(content, rng), rng)
        path.write_bytes(content)
        refused += outcome(path, original)
    # What is left: nothing was changed, or spaces between the entries of the table.
    assert refused > CHANGES * 0.8


@pytest.mark.parametrize("entry", ["states", "noise_mask", "extra.null_text", "source.2"])
def test_one_bit_of_a_tensor_is_enough(whole, tmp_path, entry):
    """None of these values is impossible: only that it is another one can be seen."""
    path = tmp_path / "cat.nmg.safetensors"
    path.write_bytes(whole[0])
    rewrite(path, tensors={entry: torch.full_like(_tensor(whole[1], entry), 0.5)})
    with pytest.raises(InvalidInput, match="changed after it was written"):
        load_trajectory(path)


def _tensor(trajectory, entry):
    if entry == "source.2":
        return trajectory.source[0][0]
    return trajectory.extras["null_text"] if "." in entry else getattr(trajectory, entry)


@pytest.mark.parametrize("name", ["states", "source.2", "extra.null_text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(whole, tmp_path, name, value):
    path = tmp_path / "cat.nmg.safetensors"
    path.write_bytes(whole[0])
    rewrite(path, tensors={name: torch.full_like(_tensor(whole[1], name), value)})
    with pytest.raises(InvalidInput, match=rf"cat.nmg.safetensors.*{name} is not finite"):
        load_trajectory(path)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    broken = make(source=[[torch.full((1, 7, 5), float("nan")), {}]])
    with pytest.raises(InvalidInput, match=r"source\.\d+ is not finite"):
        save_trajectory(broken, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


SAVED = partial(make, states=torch.randn(4, 2, 3, 64, 64), noise_mask=None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_size_is_told_before_anything_is_written(tmp_path, dtype):
    told = []

    def listen(size, free):
        assert list(tmp_path.iterdir()) == []
        told.append((size, free))

    save_trajectory(SAVED(), tmp_path / "x", dtype, listen)
    ((size, free),) = told
    assert size == pytest.approx((tmp_path / "x").stat().st_size, rel=0.01, abs=4000)
    assert free > size


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    told = []
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("nmg_sampler.files.tensor_file.shutil.disk_usage", lambda _: usage)
    wrong = "^trajectory file x does not fit on the disk. Got 100 KB free; expected 39. KB at least"
    with pytest.raises(InvalidInput, match=wrong):
        save_trajectory(SAVED(), tmp_path / "x", on_size=lambda *sizes: told.append(sizes))
    assert [free for _, free in told] == [100_000]
    assert list(tmp_path.iterdir()) == []
