"""NMG Trajectory Preview inside the host: a contact sheet and numbers, and no model at all."""

import importlib
from dataclasses import replace

import pytest
import torch
from host_models import first, random_latent, random_prompt, random_tensor

SHAPE = (1, 4, 8, 12)
STEPS = 6


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def trajectory(nodes, model):
    return invert(nodes, model)


@pytest.fixture
def preview(nodes, trajectory, vae):
    """(sheet, statistics, curve)"""

    def run(trajectory=trajectory, vae=vae, count=4):
        return nodes["NMGTrajectoryPreview"].execute(trajectory, vae, count=count)

    return run


@pytest.fixture
def drawn(pack, monkeypatch):
    """What the contact sheets are made of: pictures, columns, rows."""
    module, seen = importlib.import_module("nmg_pack.nodes.looks.trajectory_preview"), []
    draw = module.contact_sheet

    def watch(*parts):
        seen.append(parts)
        return draw(*parts)

    monkeypatch.setattr(module, "contact_sheet", watch)
    return seen


def invert(nodes, model, shape=SHAPE, **options):
    with torch.inference_mode():
        latent = random_latent(shape)
        return first(
            nodes["NMGInvert"].execute(
                model, random_prompt(1), latent, steps=STEPS, schedule="normal", **options
            )
        )


def test_the_pictures_are_those_that_the_inversion_showed(
    nodes, model, preview, vae, drawn, monkeypatch
):
    """The first is the picture, the others what the model made of the state below."""
    runs = importlib.import_module("nmg_pack.nodes.host.runs.procedure")
    shown = []

    def watch(event, pictures):
        shown.append(event.x0.cpu().clone())
        return event.x0

    monkeypatch.setattr(runs, "side_by_side", watch)
    levels = importlib.import_module("nmg_pack.nmg_sampler.trajectory.levels")
    trajectory = invert(nodes, model)
    preview(trajectory, count=STEPS + 1)
    pictures, columns, rows = drawn[0]
    assert rows is None
    assert [label.split()[0] for label in columns.labels] == [str(k) for k in range(STEPS + 1)]
    decode = importlib.import_module("nodes").VAEDecode().decode
    format_ = model.model.latent_format
    schedule = trajectory.schedule
    sheet = importlib.import_module("nmg_pack.nodes.drawing.sheet")
    expected = [trajectory.states[0]]
    for entry, x0 in enumerate(shown):
        # The noise of that call, with the level the step began at.
        asked = schedule.query_levels[entry]
        eps = (trajectory.states[entry] - asked.alpha * x0) / asked.sigma
        expected.append(levels.eps_to_x0(trajectory.states[entry], eps, schedule.levels[entry]))
    for picture, latent in zip(pictures, expected, strict=True):
        (image,) = decode(vae, {"samples": format_.process_out(latent)})
        wanted = sheet.fit(image[0].numpy(), 256)
        assert abs(picture - wanted).max() < 0.02


@pytest.mark.parametrize(
    ("count", "entries"), [(2, [0, 6]), (4, [0, 2, 4, 6]), (16, list(range(7)))]
)
def test_the_pictures_are_spread_evenly_and_none_stands_twice(preview, drawn, count, entries):
    preview(count=count)
    pictures, columns, _ = drawn[0]
    assert len(pictures) == len(columns.labels)
    assert [int(label.split()[0]) for label in columns.labels] == entries


def test_a_label_has_the_noise_level(preview, drawn, trajectory):
    preview(count=2)
    sigmas = [trajectory.schedule.levels[entry].k_sigma for entry in (0, -1)]
    assert drawn[0][1].labels == [f"0  ·  {sigmas[0]:.2g}", f"6  ·  {sigmas[1]:.2g}"]


def test_a_batch_has_a_row_for_each_picture(nodes, model, preview, drawn):
    pair = invert(nodes, model, (2, *SHAPE[1:]))
    preview(pair, count=3)
    pictures, columns, rows = drawn[0]
    assert len(columns.labels) == 3
    assert rows.labels == ["picture 1", "picture 2"]
    sheet = importlib.import_module("nmg_pack.nodes.drawing.sheet")
    decode = importlib.import_module("nodes").VAEDecode().decode
    vae = nodes["NMGDemoModel"].execute().result[2]
    (images,) = decode(vae, random_latent((2, *SHAPE[1:])))
    for row, image in enumerate(images):
        assert abs(pictures[3 * row] - sheet.fit(image.numpy(), 256)).max() < 0.02


def test_the_table_has_a_line_for_every_state_with_its_numbers(preview, trajectory):
    words = preview().result[1]
    head, *lines = words.split("\n\n")[0].splitlines()
    assert head.split() == ["level", "sigma", "mean", "std", "kurtosis", "neighbours"]
    assert len(lines) == STEPS + 1
    for entry, (line, state) in enumerate(zip(lines, trajectory.states, strict=True)):
        number, sigma, mean, deviation, *_ = map(float, line.split())
        assert number == entry
        assert sigma == pytest.approx(trajectory.schedule.levels[entry].k_sigma, rel=1e-3)
        assert mean == pytest.approx(float(state.mean()), abs=6e-4)
        assert deviation == pytest.approx(float(state.std()), abs=6e-4)


def with_last(trajectory, state):
    states = trajectory.states.clone()
    states[-1] = state
    return replace(trajectory, states=states)


def test_the_last_state_is_told_from_white_noise(nodes, model, preview):
    large = invert(nodes, model, (1, 4, 24, 24))
    white = random_tensor((1, 4, 24, 24), 3)
    assert "close to white noise" in preview(with_last(large, white)).result[1]
    grey = "keeps traces of the picture"
    assert grey in preview(with_last(large, 0.5 * white)).result[1]
    alike = (white + white.roll(1, -1)) / 2**0.5
    assert grey in preview(with_last(large, alike)).result[1]
    heavy = white**3 / 15**0.5
    assert grey in preview(with_last(large, heavy)).result[1]


def test_a_trajectory_that_ends_early_is_no_failure(nodes, model, preview):
    early = invert(nodes, model, sigmas=torch.tensor([1.5, 1.0, 0.5, 0.1]))
    assert "still holds some of the picture, as asked" in preview(early).result[1]


def test_states_drawn_one_by_one_are_shown_as_they_are(nodes, model, preview, drawn, vae):
    prompts = random_prompt(1), random_prompt(9)
    node = nodes["NMGEditFriendly"]
    latent = random_latent(SHAPE)
    settings = {"steps": STEPS, "schedule": "normal", "source_scale": 3.0, "skip": 0, "seed": 0}
    states = node.execute(model, *prompts, latent, **settings).result[1]
    words = preview(states, count=2).result[1]
    assert "no path" in words
    pictures, columns, _ = drawn[0]
    assert columns.title.startswith("state ")
    decode = importlib.import_module("nodes").VAEDecode().decode
    sheet = importlib.import_module("nmg_pack.nodes.drawing.sheet")
    noisiest = model.model.latent_format.process_out(states.states[-1])
    (image,) = decode(vae, {"samples": noisiest})
    assert abs(pictures[1] - sheet.fit(image[0].numpy(), 256)).max() < 0.02


def test_outputs_are_images_and_the_words_stand_on_the_node(preview):
    output = preview()
    sheet, words, curve = output.result
    assert sheet.ndim == 4
    assert sheet.shape[::3] == (1, 3)
    assert curve.shape == (1, 480, 800, 3)
    assert output.ui["text"] == (words,)


def test_it_leaves_the_trajectory_as_it_was(preview, trajectory):
    before = trajectory.states.clone()
    preview()
    assert torch.equal(trajectory.states, before)


def test_what_cannot_be_shown_is_refused_in_words(preview, trajectory, vae):
    with pytest.raises(ValueError, match="^NMG Trajectory Preview: vae does not fit"):
        preview(vae=None)
    identity = replace(trajectory.model, latent_format="Unheard")
    with pytest.raises(ValueError, match="latent space that this ComfyUI does not know"):
        preview(replace(trajectory, model=identity))
