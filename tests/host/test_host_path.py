"""Inversion and sampling on the host's own path: reconstruction, masks, sizes and batches."""

import importlib

import pytest
import torch
from host_edits import RUN, SHAPE, edit, edited, euler, guidance, invert
from host_models import (
    calm_network,
    first,
    make_patcher,
    parity_weights,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
)

pytestmark = pytest.mark.host_surface


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
def test_the_hosts_sampler_takes_the_noisiest_state_back_to_the_picture(nodes, prediction):
    """The `latent` output is in the scale of the host's samplers, for both kinds of prediction."""
    model = calm_network(prediction=prediction)
    source = random_latent(SHAPE)
    errors = []
    for steps in (20, 40):
        trajectory, latent = invert(nodes, model, source, steps).result
        back = euler(model, latent, trajectory, 1.0, random_prompt(1), random_prompt(1))
        errors.append(relative(back, source["samples"]))
    # The error of DDIM inversion falls as 1 / steps.
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < 0.1


@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [
        ("EPS", "official"),
        ("EPS", "official-masactrl"),
        ("EPS", "karras"),
        ("V_PREDICTION", "official-masactrl"),
    ],
)
@pytest.mark.parametrize("mode", ["official", "fused"])
def test_guidance_brings_the_reconstruction_closer(nodes, prediction, schedule, mode):
    model = calm_network(prediction=prediction)
    source = random_latent(SHAPE)
    trajectory = first(invert(nodes, model, source, 10, schedule))
    prompts = {"positive": random_prompt(1), "text_scale": 7.5}
    loose = relative(edited(nodes, model, trajectory, **prompts), source["samples"])
    closest = min(
        relative(edited(nodes, model, trajectory, method, **prompts), source["samples"])
        for method in (guidance(nodes, mode, scale=scale) for scale in (10.0, 30.0, 100.0))
    )
    assert closest < 0.7 * loose


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_outside_the_noise_mask_the_edit_is_the_source(nodes, model, mode):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    latent = random_latent(SHAPE, noise_mask=mask)
    trajectory = first(invert(nodes, model, latent))
    output = edit(nodes, model, trajectory, guidance(nodes, mode))
    result, source = (latent["samples"] for latent in output.result)
    assert torch.equal(result[..., :4], source[..., :4])
    assert relative(result[..., 4:], source[..., 4:]) > 100 * RUN
    # Into the model's latent space and out of it again: one rounding each way.
    torch.testing.assert_close(source, latent["samples"], rtol=1e-6, atol=1e-6)
    assert output.result[0]["noise_mask"].shape[-2:] == SHAPE[-2:]


def test_a_half_done_latent_comes_without_the_noise_mask(nodes, model, caplog):
    """With it the host's sampler leaves the noise of that latent outside the mask."""
    mask = torch.zeros(1, 64, 64)
    caplog.set_level("INFO")
    latent = random_latent(SHAPE, noise_mask=mask, batch_index=[2])
    trajectory, half_done = invert(nodes, model, latent).result
    assert not trajectory.noise_mask.any()
    assert half_done.keys() == {"samples", "batch_index"}
    assert "comes without" in caplog.text
    assert latent["noise_mask"] is mask


def test_the_source_output_is_the_picture(nodes, model):
    latent = random_latent(SHAPE)
    trajectory = first(invert(nodes, model, latent, schedule="official"))
    source = edit(nodes, model, trajectory).result[1]["samples"]
    torch.testing.assert_close(source, latent["samples"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 12), (10, 6), (9, 13), (7, 8)], ids=str)
def test_a_latent_of_any_size_is_edited(nodes, model, size):
    latent = random_latent((1, 4, *size))
    trajectory = first(invert(nodes, model, latent))
    mask = torch.ones(1, 50, 30)
    for mode in ("official", "fused"):
        result = edited(nodes, model, trajectory, guidance(nodes, mode), mask=mask)
        assert result.shape == latent["samples"].shape
        assert torch.isfinite(result).all()


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_a_batch_of_two_is_two_singles(nodes, model, mode, gradient):
    latent = random_latent((2, *SHAPE[1:]))
    masks = torch.stack([torch.ones(8, 8), torch.eye(8)])
    method = guidance(nodes, mode, gradient)
    trajectory = first(invert(nodes, model, latent))
    both = edited(nodes, model, trajectory, method, mask=masks)
    for index in range(2):
        one = slice(index, index + 1)
        single = first(invert(nodes, model, {"samples": latent["samples"][one]}))
        got = edited(nodes, model, single, method, mask=masks[one])
        assert relative(got, both[one]) < RUN


def test_the_scale_means_the_same_on_a_picture_of_another_size(nodes, model):
    """A tile repeated: with a sum per sample, each element is pushed as in the small picture."""
    levels = importlib.import_module("nmg_pack.nmg_sampler.methods.energy")
    library = importlib.import_module("nmg_pack.nmg_sampler")
    x, reference = random_tensor(SHAPE, 1), random_tensor(SHAPE, 2)
    small = levels.energy_slope(x, reference, library.Loss.L2)
    large = levels.energy_slope(x.repeat(1, 1, 2, 2), reference.repeat(1, 1, 2, 2), library.Loss.L2)
    assert torch.equal(large, small.repeat(1, 1, 2, 2))


def test_the_mask_of_the_sample_node_holds_outside_more_than_inside(nodes):
    model = calm_network()
    trajectory = first(invert(nodes, model, steps=8))
    method = guidance(nodes, "fused", "direct", scale=30.0, inside=0.0, outside=1.0)
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1.0
    result, source = edit(nodes, model, trajectory, method, mask=mask).result
    change = (result["samples"] - source["samples"]).abs().mean((0, 1, 2))
    assert change[:4].mean() < 0.7 * change[4:].mean()


def test_a_network_of_another_config_runs_too(nodes):
    """Not only the network of the vectors: no attention in the first blocks, deeper, wider."""
    config, _ = parity_weights("two")
    config |= {"channel_mult": [1, 2, 2], "num_res_blocks": [1, 1, 1]}
    config |= {"transformer_depth": [0, 1, 1], "transformer_depth_output": [0, 0, 1, 1, 1, 1]}
    model = make_patcher(config, seed=3)
    trajectory = first(invert(nodes, model, schedule="official"))
    assert torch.isfinite(edited(nodes, model, trajectory, guidance(nodes))).all()
