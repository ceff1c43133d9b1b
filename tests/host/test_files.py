"""Trajectories saved and loaded through the nodes."""

import importlib
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from host_models import first, random_latent, random_prompt

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 8)


@pytest.fixture
def output(pack, tmp_path, monkeypatch):
    """The host's output folder, empty; its input folder beside it."""
    paths = importlib.import_module("folder_paths")
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path / "output"


def invert(nodes, model, **latent):
    prompt = random_prompt(1, pooled_output=torch.ones(1, 5), strength=1.0)
    given = random_latent(SHAPE, **latent)
    return first(nodes["NMGInvert"].execute(model, prompt, given, steps=4, schedule="official"))


def save(nodes, trajectory, prefix="kept", precision="float32"):
    return Path(
        first(
            nodes["NMGSaveTrajectory"].execute(
                trajectory, filename_prefix=prefix, precision=precision
            )
        )
    )


def load(nodes, name):
    return first(nodes["NMGLoadTrajectory"].execute(name))


def edit(nodes, model, trajectory, mode="official"):
    output = nodes["NMGSample"].execute(
        model,
        trajectory,
        random_prompt(2),
        random_prompt(3),
        text_scale=5.0,
        noise_map_scale=1.0,
        gradient_scale=5000.0,
        mode=mode,
    )
    return [latent["samples"] for latent in output.result]


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("masked", [False, True])
def test_saved_and_loaded_it_gives_the_same_picture_bit_for_bit(nodes, model, output, mode, masked):
    mask = {"noise_mask": torch.eye(8)[None]} if masked else {}
    trajectory = invert(nodes, model, **mask)
    path = save(nodes, trajectory)
    again = load(nodes, f"output/{path.name}")
    assert again.schedule == trajectory.schedule
    assert again.model == trajectory.model
    assert torch.equal(again.states, trajectory.states)
    for one, other in zip(
        edit(nodes, model, trajectory, mode), edit(nodes, model, again, mode), strict=True
    ):
        assert torch.equal(one, other)


def test_the_prompt_comes_back_as_conditioning(nodes, model, output):
    """Someone may wire it into any node that takes a prompt."""
    trajectory = invert(nodes, model)
    again = load(nodes, f"output/{save(nodes, trajectory).name}")
    ((embedding, options),) = again.source
    ((expected, expected_options),) = trajectory.source
    assert torch.equal(embedding, expected)
    assert options.keys() == expected_options.keys()
    assert torch.equal(options["pooled_output"], expected_options["pooled_output"])
    assert options["strength"] == expected_options["strength"]


def test_half_precision_halves_the_file_and_stays_close(nodes, model, output):
    trajectory = invert(nodes, model)
    whole = save(nodes, trajectory, "whole", "float32")
    half = save(nodes, trajectory, "half", "float16")
    states = trajectory.states.numel()
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * states, abs=64)
    again = load(nodes, f"output/{half.name}")
    assert again.states.dtype == torch.float32
    # Half precision keeps 11 bits.
    torch.testing.assert_close(again.states, trajectory.states, rtol=2**-10, atol=1e-6)


def test_nothing_is_ever_overwritten(nodes, model, output):
    trajectory = invert(nodes, model)
    paths = [save(nodes, trajectory, "a/b") for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.is_file() and path.parent == output / "a" for path in paths)
    paths[1].unlink()
    before = paths[2].read_bytes()
    assert save(nodes, trajectory, "a/b") not in paths
    assert paths[2].read_bytes() == before
    assert not [path for path in output.rglob("*") if ".tmp" in path.name]


def test_the_list_is_of_both_folders_and_of_the_moment(nodes, model, output):
    trajectory = invert(nodes, model)

    def options():
        required = nodes["NMGLoadTrajectory"].INPUT_TYPES()["required"]
        return required["file"][1]["options"]

    assert options() == []
    saved = save(nodes, trajectory, "deep/er/name")
    other = output.parent / "input" / "from_a_friend.nmg.safetensors"
    other.write_bytes(saved.read_bytes())
    (output / "picture.png").write_bytes(b"")
    (output / "model.safetensors").write_bytes(b"")
    expected = ["input/from_a_friend.nmg.safetensors", f"output/deep/er/{saved.name}"]
    assert options() == expected
    for name in expected:
        assert nodes["NMGLoadTrajectory"].validate_inputs(name) is True
        assert torch.equal(load(nodes, name).states, trajectory.states)


def test_a_changed_file_is_read_again(nodes, model, output):
    """The host runs the node again only if this differs."""
    path = save(nodes, invert(nodes, model))
    name = f"output/{path.name}"
    fingerprint = nodes["NMGLoadTrajectory"].fingerprint_inputs
    before = fingerprint(name)
    assert fingerprint(name) == before
    os.utime(path, ns=(1, 1))
    assert fingerprint(name) != before


def test_names_of_any_script_and_with_spaces_work(nodes, model, output):
    path = save(nodes, invert(nodes, model), "mein Bild/Füße 足 %d")
    load(nodes, f"output/mein Bild/{path.name}")


@pytest.fixture
def savers(nodes, model):
    """What writes a file, and what reads it back: (save(prefix), load(name)) by node."""
    trajectory = invert(nodes, model)
    embedding = random_prompt(1)[0][0]
    library = importlib.import_module("nmg_pack.nmg_sampler")
    direction = library.EditDirection(embedding, None, "a cat", "a dog")

    def writes(node, value):
        return lambda prefix: Path(first(nodes[node].execute(value, filename_prefix=prefix)))

    return {
        "trajectory": (writes("NMGSaveTrajectory", trajectory), nodes["NMGLoadTrajectory"]),
        "direction": (writes("NMGSaveDirection", direction), nodes["NMGLoadDirection"]),
    }


@pytest.mark.parametrize("kind", ["trajectory", "direction"])
@pytest.mark.parametrize(
    "prefix", ["a\\b", "a\\b/c", "year %year%\\x", "x" * 180, "ü" * 90, "絵　一"]
)
def test_what_is_saved_is_listed_and_loaded(output, savers, kind, prefix):
    save, loader = savers[kind]
    path = save(prefix)
    name = f"output/{path.relative_to(output).as_posix()}"
    assert "\\" not in name
    (file,) = loader.define_schema().inputs
    assert file.options == [name]
    assert loader.validate_inputs(name) is True
    assert loader.execute(name).result


@pytest.mark.parametrize("kind", ["trajectory", "direction"])
@pytest.mark.parametrize(
    ("prefix", "named"),
    [
        ("x" * 300, "300 bytes"),
        ("x" * 300 + "/name", "300 bytes"),
        ("ü" * 120, "240 bytes"),
        ("a\0b", r"'a\x00b'"),
        ("a\nb", r"'a\nb'"),
        ("a\ud800b", r"'a\ud800b'"),
        ("taken/name", "Not a directory"),
        ("..\\away", "leads out"),
    ],
    ids=lambda given: ascii(given)[:12],
)
def test_a_name_that_no_file_can_have_is_refused_and_nothing_is_left(
    output, library, savers, kind, prefix, named
):
    (output / "taken").write_bytes(b"")
    before = sorted(output.rglob("*"))
    with pytest.raises(library.InvalidInput) as told:
        savers[kind][0](prefix)
    message = str(told.value)
    assert message.startswith(f"Save NMG {kind.title()}: filename_prefix "), message
    assert named in message
    assert sorted(output.rglob("*")) == before


def test_the_node_shows_where_it_wrote(nodes, model, output):
    result = nodes["NMGSaveTrajectory"].execute(invert(nodes, model), "kept")
    assert result.ui == {"text": [result[0]]}
    assert Path(result[0]).is_relative_to(output)


@pytest.fixture
def shown(pack, monkeypatch):
    """What the node shows on itself, and the files there were at that moment."""
    texts = []
    module = importlib.import_module("nmg_pack.nodes.path.trajectory_files")
    folder = importlib.import_module("folder_paths")

    def note(node, text):
        files = [path for path in Path(folder.output_directory).rglob("*") if path.is_file()]
        texts.append((node.__name__, text, files))

    monkeypatch.setattr(module, "show_text", note)
    return texts


def test_the_size_is_shown_before_anything_is_written(nodes, model, output, shown):
    path = save(nodes, invert(nodes, model), precision="float16")
    ((node, text, files),) = shown
    assert node == "NMGSaveTrajectory"
    assert re.fullmatch(rf"{re.escape(path.name)}: \d+(\.\d+)? KB, of \S+ [GT]B free", text)
    assert files == []


def test_a_disk_without_room_is_refused_before_anything_is_written(
    nodes, model, library, output, shown, monkeypatch
):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    wrong = r"^Save NMG Trajectory: trajectory file \S+ does not fit on the disk\. Got 1 KB free"
    with pytest.raises(library.InvalidInput, match=wrong):
        save(nodes, invert(nodes, model))
    assert len(shown) == 1
    assert not [path for path in output.rglob("*") if path.is_file()]


def test_the_widget_is_set_to_half_precision(nodes):
    given = {one.id: one for one in nodes["NMGSaveTrajectory"].GET_SCHEMA().inputs}
    assert given["precision"].default == "float16"
    assert given["precision"].options == ["float16", "float32"]
