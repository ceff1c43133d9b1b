"""What a run shows while it runs: the live preview, the bar, and how soon a cancel is answered."""

import importlib

import pytest
import torch
from host_models import (
    FLOAT32,
    first,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
)

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 12)
STEPS = 4
SCALE = 3.0
HELD = {"text_scale": SCALE, "noise_map_scale": 1.0, "gradient_scale": 500.0, "mode": "fused"}


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture
def trajectory(nodes, model):
    return invert(nodes, model)


@pytest.fixture
def preview(pack):
    """The host's preview module, showing latents by its cheap method."""
    module = importlib.import_module("latent_preview")
    before = module.args.preview_method
    module.set_preview_method("latent2rgb")
    yield module
    module.args.preview_method = before


@pytest.fixture
def told(pack, monkeypatch):
    """(value, total, picture) as the host's interface is told of them."""
    seen = []

    def hook(value, total, preview, node_id=None):
        if value:
            seen.append((value, total, None if preview is None else preview[1]))

    monkeypatch.setattr(importlib.import_module("comfy.utils"), "PROGRESS_BAR_HOOK", hook)
    return seen


def invert(nodes, model, shape=SHAPE, **options):
    node = nodes["NMGInvert"]
    return first(
        node.execute(
            model, random_prompt(1), random_latent(shape), steps=STEPS, schedule="normal", **options
        )
    )


def sample(
    nodes, model, trajectory, editor=None, targets=1, mode="fused", scale=0.0, text_scale=SCALE
):
    """(edits, source), both as the model's own latents."""
    positive = random_prompt(2)
    positive[0][0] = torch.cat([random_tensor((1, 7, 48), 2 + k) for k in range(targets)])
    output = nodes["NMGSample"].execute(
        model,
        trajectory,
        positive,
        random_prompt(9),
        text_scale=text_scale,
        noise_map_scale=scale,
        gradient_scale=500.0,
        mode=mode,
        editor=editor,
    )
    return [model.model.process_latent_in(latent["samples"]) for latent in output.result]


def as_shown(preview, model, latents):
    """The picture that the host makes of rows of latents side by side, as numbers."""
    previewer = preview.get_previewer(model.load_device, model.model.latent_format)
    wide = torch.cat(latents.split(1), -1)
    return pixels(previewer.decode_latent_to_preview_image("JPEG", wide)[1])


def pixels(image):
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(
        image.height, image.width, 3
    )


def masactrl(nodes):
    return first(nodes["NMGMasaCtrl"].execute(0, 0))


@pytest.mark.parametrize(("targets", "shown"), [(1, 2), (3, 4), (5, 4)])
def test_with_an_editor_the_preview_is_the_source_and_the_first_edits_side_by_side(
    nodes, model, trajectory, preview, told, targets, shown
):
    edits, source = sample(nodes, model, trajectory, masactrl(nodes), targets)
    assert {picture.size for *_, picture in told} == {(shown * SHAPE[3], SHAPE[2])}
    # The host leaves out what follows too fast, but never the last one.
    last = pixels(told[-1][2]).int()
    expected = as_shown(preview, model, torch.cat([source, edits])[:shown]).int()
    # The lowest level of the schedule is almost the clean latent.
    assert (last - expected).abs().float().mean() < 4
    assert (last[:, : SHAPE[3]] - last[:, SHAPE[3] : 2 * SHAPE[3]]).abs().float().mean() > 4


def test_several_edits_without_an_editor_are_shown_side_by_side(
    nodes, model, trajectory, preview, told
):
    sample(nodes, model, trajectory, targets=2)
    assert {picture.size for *_, picture in told} == {(2 * SHAPE[3], SHAPE[2])}


def test_of_a_batch_the_first_picture_is_shown_with_all_of_its_edits(nodes, model, preview, told):
    pair = invert(nodes, model, (2, *SHAPE[1:]))
    told.clear()
    edits, source = sample(nodes, model, pair, masactrl(nodes), targets=4)
    assert len(edits) == 4  # two target prompts for two pictures, target after target
    last = pixels(told[-1][2]).int()
    expected = as_shown(preview, model, torch.cat([source[:1], edits[::2]])).int()
    assert last.shape == expected.shape
    assert (last - expected).abs().float().mean() < 4


def test_both_ways_show_the_very_clean_latents_that_the_model_predicts(
    nodes, model, preview, monkeypatch
):
    """In the space and at the scale in which the host's own samplers hand them on."""
    shown, predicted = [], []

    class Previewer:
        def decode_latent_to_preview_image(self, _format, x0):
            shown.append(x0)
            return ("JPEG", None, 512)

    def watch(apply, args):
        predicted.append(apply(args["input"], args["timestep"], **args["c"]))
        return predicted[-1]

    monkeypatch.setattr(preview, "get_previewer", lambda *_: Previewer())
    watched = model.clone()
    watched.set_model_unet_function_wrapper(watch)
    sample(nodes, watched, invert(nodes, watched), text_scale=1.0)
    assert len(shown) == len(predicted) == 2 * STEPS
    for ours, theirs in zip(shown, predicted, strict=True):
        assert relative(ours, theirs) < FLOAT32


def test_a_network_previewer_of_the_host_takes_the_wide_latent(
    nodes, model, trajectory, preview, told, monkeypatch
):
    taesd = importlib.import_module("comfy.taesd.taesd").TAESD(None, None, latent_channels=4)
    previewer = preview.TAESDPreviewerImpl(taesd)
    monkeypatch.setattr(preview, "get_previewer", lambda *_: previewer)
    sample(nodes, model, trajectory, masactrl(nodes))
    assert told[-1][2].size == (2 * 8 * SHAPE[3], 8 * SHAPE[2])


def null_text(nodes, model, trajectory):
    nodes["NMGNullText"].execute(
        model,
        trajectory,
        random_prompt(9),
        text_scale=SCALE,
        inner_steps=2,
        learning_rate=0.01,
        early_stop=0.0,
    )


def edit_friendly(nodes, model, _):
    latent = random_latent(SHAPE)
    prompts = random_prompt(1), random_prompt(9)
    settings = {"steps": STEPS, "schedule": "normal", "source_scale": SCALE, "skip": 0, "seed": 0}
    nodes["NMGEditFriendly"].execute(model, *prompts, latent, **settings)


def attention_maps(_, model, trajectory):
    maps = importlib.import_module("nmg_pack.nodes.host.runs.attention_maps")
    maps.run_attention_maps(model, trajectory, [(1,)], 7, 2, 0)


def reconstruction_check(nodes, model, trajectory):
    vae = nodes["NMGDemoModel"].execute().result[2]
    nodes["NMGReconstructionCheck"].execute(model, trajectory, random_prompt(9), vae, **HELD)


def custom_sampling(nodes, model, trajectory):
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    prompts = random_prompt(2), random_prompt(9)
    guider = first(nodes["NMGGuider"].execute(model, trajectory, *prompts, **HELD))
    sampler, sigmas = nodes["NMGSampler"].execute(trajectory).result
    still, latent = first(custom.DisableNoise.execute()), {"samples": guider.plan.picture}
    custom.SamplerCustomAdvanced.execute(still, guider, sampler, sigmas, latent)


# Name: (what runs the model, how many ticks of the bar its work is).
RUNS = {
    "invert": (lambda n, m, _: invert(n, m), STEPS),
    "invert, refined and regularised": (
        lambda n, m, _: invert(n, m, refine_iterations=2, regularize=1),
        STEPS,
    ),
    "sample, fused": (lambda n, m, t: sample(n, m, t, scale=1.0), STEPS),
    "sample, official": (lambda n, m, t: sample(n, m, t, mode="official", scale=1.0), STEPS),
    "sample, editor": (lambda n, m, t: sample(n, m, t, masactrl(n), scale=1.0), STEPS),
    "null-text": (null_text, 3 * STEPS),
    "edit-friendly": (edit_friendly, STEPS),
    "attention maps": (attention_maps, 2),
    "custom sampling": (custom_sampling, STEPS),
    "reconstruction check": (reconstruction_check, 3 * STEPS),
    "edit region": (
        lambda n, m, t: n["NMGEditRegion"].execute(
            m, t, random_prompt(2), threshold=0.5, grow=0, levels=2
        ),
        2,
    ),
}
each_run = pytest.mark.parametrize(("run", "ticks"), RUNS.values(), ids=RUNS)


@each_run
def test_one_bar_counts_all_the_work_of_a_node(nodes, model, trajectory, told, run, ticks):
    told.clear()
    run(nodes, model, trajectory)
    values = [value for value, *_ in told]
    assert {total for _, total, _ in told} == {ticks}
    assert values == sorted(set(values))
    assert values[-1] == ticks


@each_run
@pytest.mark.parametrize("call", [1, 2])
def test_a_cancel_in_a_model_call_is_answered_before_the_next(
    nodes, model, trajectory, run, ticks, call
):
    management = importlib.import_module("comfy.model_management")
    calls = []

    def cancelling(apply, args):
        calls.append(args["timestep"])
        if len(calls) == call:
            management.interrupt_current_processing()
        return apply(args["input"], args["timestep"], **args["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(cancelling)
    with pytest.raises(management.InterruptProcessingException):
        run(nodes, patched, trajectory)
    assert len(calls) == call
