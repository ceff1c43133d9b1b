"""NMG Sweep inside the host: each cell is NMG Sample, bit for bit, and nothing is done twice."""

import importlib

import pytest
import torch
from host_models import first, random_latent, random_prompt, random_tensor
from host_nodes import guidance

SHAPE = (1, 4, 8, 12)
STEPS = 3
SCALES = {"text_scale": 3.0, "noise_map_scale": 1.5, "gradient_scale": 500.0, "mode": "fused"}
GRID = {
    "rows": "noise_map_scale",
    "row_values": "0, 1.5, 5",
    "columns": "text_scale",
    "column_values": "1, 7.5",
}
CELLS = [(row, column) for row in (0.0, 1.5, 5.0) for column in (1.0, 7.5)]


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def trajectory(nodes, model):
    return invert(nodes, model)


@pytest.fixture(scope="module")
def pair(nodes, model):
    """Of two pictures."""
    return invert(nodes, model, (2, *SHAPE[1:]))


@pytest.fixture(scope="module")
def drawing(pack):
    return importlib.import_module("nmg_pack.nodes.drawing.sheet")


@pytest.fixture
def management(pack):
    return importlib.import_module("comfy.model_management")


def invert(nodes, model, shape=SHAPE, **options):
    with torch.inference_mode():
        latent = random_latent(shape, **options)
        return first(
            nodes["NMGInvert"].execute(
                model, random_prompt(1), latent, steps=STEPS, schedule="normal"
            )
        )


def given(model, trajectory, **inputs):
    """What NMG Sample and NMG Sweep have in common."""
    prompts = {"positive": random_prompt(2), "negative": random_prompt(3)}
    return {"model": model, "trajectory": trajectory, **prompts, **SCALES, **inputs}


def sweep(nodes, vae, shared, **inputs):
    return nodes["NMGSweep"].execute(**shared, vae=vae, **{**GRID, **inputs})


def sample(nodes, shared, **inputs):
    return first(nodes["NMGSample"].execute(**{**shared, **inputs}))["samples"]


def counting(model, act=lambda call: None):
    """A clone of the model, and a list of its calls; `act` is told the number of each."""
    calls = []

    def count(apply, args):
        calls.append(args["timestep"])
        act(len(calls))
        return apply(args["input"], args["timestep"], **args["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(count)
    return patched, calls


def of_each(nodes, shared, cells=CELLS):
    """What NMG Sample makes of noise map scale and text scale of each cell."""
    return torch.cat(
        [sample(nodes, shared, noise_map_scale=row, text_scale=column) for row, column in cells]
    )


@pytest.mark.parametrize("mode", ["fused", "official"])
def test_each_cell_is_nmg_sample_with_its_settings_row_by_row(nodes, model, trajectory, vae, mode):
    shared = given(model, trajectory, mode=mode)
    _, latent = sweep(nodes, vae, shared).result
    expected = of_each(nodes, shared)
    assert torch.equal(latent["samples"], expected)
    assert len({cell.numpy().tobytes() for cell in expected}) == len(CELLS)


def test_a_batch_comes_cell_by_cell(nodes, model, pair, vae):
    shared = given(model, pair)
    sheets, latent = sweep(nodes, vae, shared).result
    assert torch.equal(latent["samples"], of_each(nodes, shared))
    assert len(latent["samples"]) == 2 * len(CELLS)
    assert len(sheets) == 2


def test_editor_mask_and_noise_mask_are_those_of_nmg_sample(nodes, model, vae):
    noise_mask = (random_tensor((1, 1, 8, 12), 5) > 0).float()
    masked = invert(nodes, model, noise_mask=noise_mask)
    mask = (random_tensor((1, 64, 96), 6) > 0).float()
    for more in ({"mask": mask}, {"editor": first(nodes["NMGMasaCtrl"].execute(0, 0))}):
        shared = given(model, masked, **more)
        _, latent = sweep(nodes, vae, shared).result
        assert torch.equal(latent["samples"], of_each(nodes, shared))
        assert torch.equal(latent["noise_mask"], masked.noise_mask)


def test_several_prompts_are_as_many_edits_in_each_cell(nodes, model, trajectory, vae):
    positive = random_prompt(2)
    positive[0][0] = torch.cat([random_tensor((1, 7, 48), seed) for seed in (2, 4)])
    shared = given(model, trajectory, positive=positive)
    sheets, latent = sweep(nodes, vae, shared).result
    assert torch.equal(latent["samples"], of_each(nodes, shared))
    assert len(sheets) == 2


def test_every_number_of_nmg_guidance_can_be_swept(nodes, model, trajectory, vae):
    shared = given(model, trajectory)
    grid = {"rows": "end", "row_values": "0.4, 1", "columns": "every", "column_values": "1, 2"}
    _, latent = sweep(nodes, vae, shared, **grid).result
    made = [
        guidance(nodes, noise_map_scale=1.5, gradient_scale=500.0, end=end, every=every)
        for end in (0.4, 1.0)
        for every in (1, 2)
    ]
    expected = torch.cat([sample(nodes, shared, guidance=method) for method in made])
    assert torch.equal(latent["samples"], expected)
    assert len({cell.numpy().tobytes() for cell in expected}) == 4


def test_the_numbers_of_a_connected_guidance_can_be_swept(nodes, model, trajectory, vae):
    proximal = nodes["NMGProximal"].execute
    shared = given(model, trajectory, guidance=first(proximal("hard", 0.9)))
    values = {"row_values": "0.2, 0.6", "column_values": "0, 1"}
    grid = {"rows": "quantile", "columns": "interpolation", **values}
    _, latent = sweep(nodes, vae, shared, **grid).result
    expected = [
        sample(
            nodes, shared, guidance=first(proximal("hard", quantile, interpolation=interpolation))
        )
        for quantile in (0.2, 0.6)
        for interpolation in (0.0, 1.0)
    ]
    assert torch.equal(latent["samples"], torch.cat(expected))


def remembering(model):
    """A patch as other packs make them: it counts the calls of a run, and each moves a little."""
    wrappers = importlib.import_module("comfy.patcher_extension").WrappersMP
    patched, calls = model.clone(), []

    def begin(executor, *args, **kwargs):
        calls.clear()
        return executor(*args, **kwargs)

    def move(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs) + 0.01 * len(calls)

    patched.add_wrapper(wrappers.OUTER_SAMPLE, begin)
    patched.add_wrapper(wrappers.PREDICT_NOISE, move)
    return patched


def test_what_a_patch_remembers_of_one_cell_does_not_reach_the_next(nodes, model, trajectory, vae):
    shared = given(remembering(model), trajectory)
    _, latent = sweep(nodes, vae, shared).result
    expected = of_each(nodes, shared)
    assert torch.equal(latent["samples"], expected)
    assert not torch.equal(expected, of_each(nodes, given(model, trajectory)))


def test_the_sheet_shows_the_latents_in_their_order(nodes, model, pair, vae, drawing):
    sheets, latent = sweep(nodes, vae, given(model, pair), cell_size=64).result
    decode = importlib.import_module("nodes").VAEDecode().decode
    (pictures,) = decode(vae, latent)
    columns = drawing.Axis(["1", "7.5"], "text_scale")
    rows = drawing.Axis(["0", "1.5", "5"], "noise_map_scale")
    for number, sheet in enumerate(sheets):
        fitted = [drawing.fit(picture.numpy(), 64) for picture in pictures[number::2]]
        expected = torch.from_numpy(drawing.contact_sheet(fitted, columns, rows))
        # Alone or in a batch, a picture is decoded with other rounding.
        assert (sheet - expected).abs().max() < 3 / 255


def test_one_value_each_is_one_cell(nodes, model, trajectory, vae):
    shared = given(model, trajectory)
    _, latent = sweep(nodes, vae, shared, row_values="1.5", column_values="3").result
    assert torch.equal(latent["samples"], sample(nodes, shared))


def test_it_costs_the_runs_of_its_cells_and_nothing_more(nodes, model, trajectory, vae):
    patched, calls = counting(model)
    shared = given(patched, trajectory)
    output = sweep(nodes, vae, shared)
    ours = len(calls)
    of_each(nodes, shared)
    assert ours == len(calls) - ours
    (cost,) = output.ui["nmg"]
    assert cost["forward_calls"] == ours


def test_one_bar_counts_the_steps_of_all_cells(nodes, model, trajectory, vae, monkeypatch):
    told = []
    monkeypatch.setattr(
        importlib.import_module("comfy.utils"),
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, **_: told.append((value, total)),
    )
    sweep(nodes, vae, given(model, trajectory))
    values = [value for value, _ in told]
    assert {total for _, total in told} == {len(CELLS) * STEPS}
    assert values == sorted(set(values))
    # The host leaves out what follows too fast, but never the first of a run, nor the last.
    assert {1 + STEPS * cell for cell in range(len(CELLS))} <= set(values)
    assert values[-1] == len(CELLS) * STEPS


@pytest.mark.parametrize("call", [1, STEPS + 2])
def test_a_cancel_in_a_model_call_is_answered_before_the_next(
    nodes, model, trajectory, vae, management, call
):
    def cancel(number):
        if number == call:
            management.interrupt_current_processing()

    patched, calls = counting(model, cancel)
    with pytest.raises(management.InterruptProcessingException):
        sweep(nodes, vae, given(patched, trajectory))
    assert len(calls) == call


def test_a_cancel_while_cells_are_decoded(nodes, model, trajectory, vae, management, monkeypatch):
    decode, decoded = vae.decode, []

    def cancelling(samples):
        decoded.append(samples)
        management.interrupt_current_processing()
        return decode(samples)

    monkeypatch.setattr(vae, "decode", cancelling)
    with pytest.raises(management.InterruptProcessingException):
        sweep(nodes, vae, given(model, trajectory))
    assert len(decoded) == 1


# What cannot work: the input, and words of the message.
REFUSED = {
    "no values": ({"row_values": " "}, ["row_values is empty"]),
    "a word": ({"column_values": "3, high"}, ["column_values", "'high'"]),
    "nan": ({"column_values": "3, nan"}, ["column_values", "'nan'"]),
    "a last value out of range": ({"row_values": "1, -1"}, ["noise_map_scale", "-1"]),
    "a last text scale out of range": ({"column_values": "1, -1"}, ["text_scale", "-1"]),
    "one parameter twice": ({"rows": "text_scale"}, ["rows and columns", "'text_scale'"]),
    "too many cells": ({"row_values": "1," * 32 + "1"}, ["33 x 2 = 66", "64"]),
    "a parameter of another method": ({"rows": "quantile"}, ["rows", "'quantile'", "'falloff'"]),
    "no vae": ({"vae": None}, ["vae", "nothing"]),
    "no prompt": ({"negative": []}, ["negative is empty"]),
    "a mask of nan": ({"mask": torch.full((1, 8, 8), torch.nan)}, ["mask is not finite"]),
}


@pytest.mark.parametrize(("inputs", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_the_model_is_asked(
    nodes, library, model, trajectory, vae, inputs, words
):
    patched, calls = counting(model)
    shared = {**given(patched, trajectory), "vae": vae, **GRID, **inputs}
    with pytest.raises(library.InvalidInput) as raised:
        nodes["NMGSweep"].execute(**shared)
    message = str(raised.value)
    assert message.startswith("NMG Sweep: ")
    for word in (*words, "Got ", "expected "):
        assert word in message
    assert calls == []


def test_a_parameter_the_connected_guidance_lacks_is_refused_with_those_it_has(
    nodes, library, model, trajectory, vae
):
    guidance = first(nodes["NMGProximal"].execute("soft", 0.4))
    patched, calls = counting(model)
    with pytest.raises(library.InvalidInput, match=r"rows .*'noise_map_scale'.*'quantile'"):
        sweep(nodes, vae, given(patched, trajectory, guidance=guidance))
    assert calls == []


def test_null_text_embeddings_are_not_stretched_over_text_scales(
    nodes, library, model, trajectory, vae
):
    prompt = random_prompt(3)
    made = nodes["NMGNullText"].execute(
        model, trajectory, prompt, text_scale=3.0, inner_steps=1, learning_rate=0.01
    )
    patched, calls = counting(model)
    with pytest.raises(library.InvalidInput, match="made for one text_scale"):
        sweep(nodes, vae, given(patched, trajectory, guidance=first(made)))
    assert calls == []


def test_the_widgets_left_alone_make_a_grid(nodes, model, trajectory, vae):
    inputs = nodes["NMGSweep"].GET_SCHEMA().inputs
    widgets = {widget.id: getattr(widget, "default", None) for widget in inputs}
    shared = given(model, trajectory)
    left = {name: widgets[name] for name in (*SCALES, *GRID)}
    sheets, latent = nodes["NMGSweep"].execute(**{**shared, **left}, vae=vae).result
    assert latent["samples"].shape == (9, *SHAPE[1:])
    assert sheets.shape[0] == 1
    assert sheets.shape[2] > 3 * 384
