"""Four to eight steps, as distilled models take them, without text guidance: what to expect."""

import importlib

import pytest
import torch
from host_models import first, relative

STEPS = 4
SOURCE = "a yellow triangle on a striped blue background"
SIGMAS = (14.6, 4.1, 1.6, 0.6, 0.03)
# Part of the picture's own size; 1 is another picture.
CLOSE = 0.2


@pytest.fixture(scope="module")
def demo(pack):
    """(model, encode, source picture as a LATENT)"""
    host_nodes = importlib.import_module("nodes")
    nodes = importlib.import_module("nmg_pack.nodes.demo")
    with torch.inference_mode():
        model, clip, vae = nodes.NMGDemoModel.execute().result
        picture, caption = nodes.NMGDemoPicture.execute(24).result
        assert caption == SOURCE
        latent = {"samples": vae.encode(picture[..., :3])}
    return model, lambda text: host_nodes.CLIPTextEncode().encode(clip, text)[0], latent


@pytest.fixture
def come_back(nodes, demo):
    """The picture inverted and sampled back under its own prompt, and what that cost."""
    model, encode, latent = demo

    def call(schedule, steps=STEPS, scale=0.0, mode="fused", **options):
        if schedule == "custom":
            schedule, options["sigmas"] = "normal", torch.tensor(SIGMAS)
        trajectory = first(
            nodes["NMGInvert"].execute(
                model, encode(SOURCE), latent, steps=steps, schedule=schedule, **options
            )
        )
        assert len(trajectory.states) == steps + 1
        output = nodes["NMGSample"].execute(
            *(model, trajectory, encode(SOURCE), encode("")),
            text_scale=1.0,
            noise_map_scale=scale,
            gradient_scale=5000.0,
            mode=mode,
        )
        return first(output)["samples"], output.ui["nmg"][0]

    return call


@pytest.fixture
def error(come_back, demo):
    """How far the picture that comes back is from the picture, relative to it."""
    return lambda *settings, **named: relative(come_back(*settings, **named)[0], demo[2]["samples"])


@pytest.mark.parametrize(
    "schedule", ["official-masactrl", "official", "sgm_uniform", "simple", "karras", "custom"]
)
def test_four_refined_steps_lead_there_and_back(error, schedule):
    refined = error(schedule, refine_iterations=2)
    assert refined < CLOSE
    assert refined < 0.6 * error(schedule)


@pytest.mark.parametrize("steps", [4, 8])
def test_a_small_scale_brings_the_picture_nearer_and_a_large_one_overshoots(error, steps):
    without, small, large = (error("official-masactrl", steps, scale) for scale in (0.0, 0.5, 50.0))
    assert small < without < large


@pytest.mark.parametrize("mode", ["fused", "official"])
@pytest.mark.parametrize("schedule", ["official", "sgm_uniform"])
def test_every_mode_takes_four_steps(come_back, schedule, mode):
    edited, cost = come_back(schedule, scale=0.5, mode=mode)
    assert torch.isfinite(edited).all()
    # Both predictions are one call where there is one step. The last step of schedule 'official'
    # changes nothing.
    calls = 2 if mode == "official" else 1
    assert cost["forward_calls"] == calls * (STEPS - (schedule == "official"))
