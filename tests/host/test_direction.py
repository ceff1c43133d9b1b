"""Edit directions through the nodes, with the demo model's real text encoder; and inversion made
whiter as pix2pix-zero does."""

import importlib
from pathlib import Path

import pytest
import torch
from host_models import first, parity_network, random_latent, random_prompt, random_tensor

STEPS = 4
RED = "a red square\na red star\na red triangle\na red heart\na red cross"
BLUE = RED.replace("red", "blue")
LONG = "a red circle " * 30
# Rounding of float32 embeddings, whose numbers are below 10.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def make(nodes, demo):
    def call(source=RED, target=BLUE, clip=demo[1]):
        return first(
            nodes["NMGEditDirection"].execute(
                clip, source_sentences=source, target_sentences=target
            )
        )

    return call


@pytest.fixture
def apply(nodes):
    return lambda *args: first(nodes["NMGApplyDirection"].execute(*args))


@pytest.fixture
def output(pack, tmp_path, monkeypatch):
    """The host's output folder, empty; its input folder beside it."""
    paths = importlib.import_module("folder_paths")
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path / "output"


def test_equal_sentences_make_no_direction_and_change_no_bit(make, apply, encode):
    direction = make(RED, RED)
    assert not direction.embedding.any()
    assert not direction.pooled.any()
    ((before, options),) = encode("a red circle")
    ((after, moved),) = apply(encode("a red circle"), direction, 1.0)
    assert torch.equal(after, before)
    assert moved.keys() == options.keys()
    assert torch.equal(moved["pooled_output"], options["pooled_output"])


def test_one_sentence_each_leads_exactly_from_one_to_the_other(make, apply, encode):
    direction = make("a red circle", "a blue circle")
    ((moved, options),) = apply(encode("a red circle"), direction, 1.0)
    ((expected, expected_options),) = encode("a blue circle")
    torch.testing.assert_close(moved, expected, **CLOSE)
    torch.testing.assert_close(options["pooled_output"], expected_options["pooled_output"], **CLOSE)


def test_sentences_about_red_and_blue_take_a_red_circle_to_a_blue_one(make, apply, encode):
    """No sentence says circle."""
    red, blue = (encode(f"a {colour} circle")[0][0] for colour in ("red", "blue"))

    def distance(strength):
        return float((apply(encode("a red circle"), make(), strength)[0][0] - blue).norm())

    assert distance(0.0) == pytest.approx(float((red - blue).norm()))
    assert distance(0.0) > distance(0.5) > distance(1.0)
    # Measured 0.38.
    assert distance(1.0) < 0.5 * distance(0.0)
    assert distance(-1.0) > distance(0.0)


def test_a_direction_says_what_it_was_made_of(make):
    direction = make(f"\n  {RED}  \n\n", BLUE)
    assert direction.source == RED
    assert direction.target == BLUE


def test_every_part_of_a_batched_conditioning_is_shifted_and_none_is_written_to(make, apply):
    direction = make()
    shape = direction.embedding.shape[1:]
    mask = torch.ones(1, 8, 8)
    pooled = random_tensor((2, direction.pooled.shape[1]), 2)
    conditioning = [
        [random_tensor((2, *shape), 1), {"pooled_output": pooled}],
        [random_tensor((1, *shape), 3), {"mask": mask, "pooled_output": None}],
        [random_tensor((1, *shape), 4), {}],
    ]
    before = [(embedding.clone(), dict(options)) for embedding, options in conditioning]
    pooled_before = pooled.clone()
    moved = apply(conditioning, direction, 2.0)
    for (old, options), (new, new_options) in zip(before, moved, strict=True):
        torch.testing.assert_close(new, old + 2 * direction.embedding, **CLOSE)
        assert new_options.keys() == options.keys()
    assert moved[1][1]["mask"] is mask
    assert moved[1][1]["pooled_output"] is None
    torch.testing.assert_close(
        moved[0][1]["pooled_output"], pooled_before + 2 * direction.pooled, **CLOSE
    )
    for (embedding, options), (old, old_options) in zip(conditioning, before, strict=True):
        assert torch.equal(embedding, old)
        assert options == old_options
    assert torch.equal(pooled, pooled_before)


def test_a_sentence_of_several_chunks_is_refused_and_quoted(make, library):
    with pytest.raises(
        library.InvalidInput, match="NMG Edit Direction: sentence is too long.*circle.*2 chunks"
    ):
        make(f"a red circle\n{LONG}", BLUE)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"source": " \n "}, "source_sentences has no sentences"),
        ({"target": ""}, "target_sentences has no sentences"),
        ({"clip": None}, "clip is missing"),
    ],
    ids=["source", "target", "clip"],
)
def test_what_is_missing_is_named(make, library, inputs, words):
    with pytest.raises(library.InvalidInput, match=f"^NMG Edit Direction: {words}"):
        make(**inputs)


def test_a_prompt_of_another_length_or_encoder_is_refused_with_both_shapes(
    make, apply, encode, library
):
    direction = make()
    columns, channels = direction.embedding.shape[1:]
    with pytest.raises(library.InvalidInput, match=rf"\(1, {columns}, .*\(1, {2 * columns}, "):
        apply(encode(LONG), direction, 1.0)
    with pytest.raises(library.InvalidInput, match=rf"{channels}\).*768\)"):
        apply([[torch.zeros(1, columns, 768), {}]], direction, 1.0)
    with pytest.raises(library.InvalidInput, match="NMG Apply Direction: conditioning is empty"):
        apply([], direction, 1.0)


@pytest.mark.parametrize("cancelled", [False, True])
def test_the_bar_counts_sentences_and_a_cancelled_run_stops_within_the_next(
    make, monkeypatch, cancelled
):
    management = importlib.import_module("comfy.model_management")
    seen = []

    def hook(value, total, preview, node_id=None):
        seen.append((value, total))
        if cancelled:
            management.interrupt_current_processing(True)

    monkeypatch.setattr(importlib.import_module("comfy.utils"), "PROGRESS_BAR_HOOK", hook)
    if cancelled:
        with pytest.raises(management.InterruptProcessingException):
            make("a\nb", "c")
        assert seen == [(1, 3)]
    else:
        make("a\nb", "c")
        assert seen[0] == (1, 3)  # the host leaves out what follows too fast
        assert seen[-1] == (3, 3)


def test_saved_and_loaded_it_shifts_the_same_bit_for_bit(nodes, make, apply, encode, output):
    direction = make()
    saved = nodes["NMGSaveDirection"].execute(direction, "directions/colour")
    path = Path(first(saved))
    assert path == output / "directions" / "colour_00001_.nmg-direction.safetensors"
    assert saved.ui["text"] == [str(path)]
    load = nodes["NMGLoadDirection"]
    name = f"output/directions/{path.name}"
    assert load.INPUT_TYPES()["required"]["file"][1]["options"] == [name]
    assert load.validate_inputs(name) is True
    again = first(load.execute(name))
    assert (again.source, again.target) == (direction.source, direction.target)
    one, other = (apply(encode("a red circle"), each, 1.5) for each in (direction, again))
    assert torch.equal(one[0][0], other[0][0])
    assert torch.equal(one[0][1]["pooled_output"], other[0][1]["pooled_output"])


def test_nothing_is_overwritten_and_a_changed_file_is_read_again(nodes, make, output):
    def save():
        return Path(first(nodes["NMGSaveDirection"].execute(make(), "x")))

    path = save()
    assert save() != path
    fingerprint = nodes["NMGLoadDirection"].fingerprint_inputs
    before = fingerprint(f"output/{path.name}")
    path.write_bytes(path.read_bytes()[:-1])
    assert fingerprint(f"output/{path.name}") != before


def test_directions_and_trajectories_do_not_mix(nodes, make, output, library):
    path = Path(first(nodes["NMGSaveDirection"].execute(make(), "x")))
    assert nodes["NMGLoadTrajectory"].INPUT_TYPES()["required"]["file"][1]["options"] == []
    problem = nodes["NMGLoadTrajectory"].validate_inputs(f"output/{path.name}")
    assert ".nmg.safetensors" in problem
    problem = nodes["NMGLoadDirection"].validate_inputs("output/a.nmg.safetensors")
    assert ".nmg-direction.safetensors" in problem
    renamed = path.rename(path.with_name("t.nmg.safetensors"))
    with pytest.raises(library.InvalidInput, match="Load NMG Trajectory: .*is no NMG trajectory"):
        nodes["NMGLoadTrajectory"].execute(f"output/{renamed.name}")


def test_a_file_name_leads_out_of_no_folder(nodes, make, output, library):
    with pytest.raises(library.InvalidInput, match="Save NMG Direction: filename_prefix leads out"):
        nodes["NMGSaveDirection"].execute(make(), "../x")
    problem = nodes["NMGLoadDirection"].validate_inputs("output/../../x.nmg-direction.safetensors")
    assert problem.startswith("Load NMG Direction: file is outside")


@pytest.fixture
def invert(nodes, demo, encode):
    """The states of NMG Invert on a picture of the demo model."""
    picture, caption = nodes["NMGDemoPicture"].execute(11).result
    latent = {"samples": demo[2].encode(picture[..., :3])}

    def call(**inputs):
        made = nodes["NMGInvert"].execute(
            demo[0], encode(caption), latent, steps=STEPS, schedule="official-masactrl", **inputs
        )
        return first(made).states

    return call


def test_a_regularised_inversion_is_that_of_its_seed(invert):
    states = invert(regularize=2, seed=1)
    assert torch.equal(states, invert(regularize=2, seed=1))
    assert not torch.equal(states, invert(regularize=2, seed=2))


def test_without_regularisation_the_inversion_is_what_it_was_whatever_the_seed(invert):
    before = torch.get_rng_state()
    assert torch.equal(invert(regularize=0, seed=5), invert())
    assert not torch.equal(invert(regularize=1), invert())
    assert torch.equal(torch.get_rng_state(), before)


def test_regularisation_brings_the_noisiest_state_nearer_to_white_noise(invert):
    module = importlib.import_module("nmg_pack.nmg_sampler.methods.regularization")
    plain, whiter = (invert(regularize=count)[-1] for count in (0, 5))
    # Measured 0.36 and 0.036.
    assert float(module.kl_divergence(whiter)) < 0.2 * float(module.kl_divergence(plain))


def test_regularisation_asks_the_model_no_more_often(nodes):
    model, costs = parity_network("two"), []
    for count in (0, 3):
        made = nodes["NMGInvert"].execute(
            model,
            random_prompt(1),
            random_latent((1, 4, 8, 8)),
            steps=3,
            schedule="official",
            sigmas=None,
            regularize=count,
        )
        costs.append({**made.ui["nmg"][0], "seconds": 0})
    assert costs[0] == costs[1]
