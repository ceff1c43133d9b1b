"""NMG Edit Region inside the host: the edit is found where it is, or refused."""

import importlib
from typing import NamedTuple

import numpy as np
import pytest
import torch
from host_models import (
    first,
    parity_network,
    random_latent,
    random_prompt,
    relative,
)

from demo import scenes

STEPS = 20
RUN = 1e-4  # float32 rounding of two predictions


@pytest.fixture(scope="module")
def node(pack):
    return importlib.import_module("nmg_pack.nodes.looks.edit_region").NMGEditRegion


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def invert(nodes, model):
    def call(shape=(1, 4, 8, 8), source=None, **latent):
        source = source or random_prompt(1)
        wires = model, source, random_latent(shape, **latent)
        run = nodes["NMGInvert"].execute(*wires, steps=6, schedule="official-masactrl")
        return first(run)

    return call


def find(node, model, trajectory, positive=None, threshold=0.0, grow=0, **options):
    positive = positive or random_prompt(2)
    return first(
        node.execute(model, trajectory, positive, threshold=threshold, grow=grow, **options)
    )


class Made(NamedTuple):
    """A colour edit of a scene, and the scene's trajectory."""

    scene: scenes.Scene
    target: scenes.Scene
    trajectory: object


@pytest.fixture(scope="module")
def edits(nodes, demo, encode):
    model, _, vae = demo
    rng = np.random.default_rng(0)
    made = []
    with torch.inference_mode():
        for _ in range(4):
            scene = scenes.random_scene(rng)
            free = [c for c in scenes.colours if c not in (scene.colour, scene.background)]
            target = scenes.edit(scene, "colour", free[0])
            latent = {"samples": vae.encode(torch.from_numpy(scenes.render(scene))[None])}
            wires = model, encode(scenes.caption(scene)), latent
            run = nodes["NMGInvert"].execute(*wires, steps=STEPS, schedule="official-masactrl")
            made.append(Made(scene, target, first(run)))
    return made


def overlap(mask, made):
    """Intersection over union with the true mask of the edit, of pixels."""
    true = torch.from_numpy(scenes.mask(made.scene, made.target))
    found = mask > 0.5
    return float((found & true).sum() / (found | true).sum())


def test_a_colour_edit_is_found_on_the_object(node, demo, encode, edits):
    found = []
    for made in edits:
        positive = encode(scenes.caption(made.target))
        mask = find(node, demo[0], made.trajectory, positive, 0.35)
        assert mask.shape == (1, 128, 128)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        found.append(overlap(mask[0], made))
    assert np.mean(found) > 0.5
    assert min(found) > 0.2


def test_the_same_prompt_has_no_region(node, demo, encode, edits):
    made = edits[0]
    for threshold in (0.0, 0.35):
        mask = find(node, demo[0], made.trajectory, encode(scenes.caption(made.scene)), threshold)
        assert not mask.any()


def test_in_a_batch_of_prompts_the_same_prompt_adds_nothing(node, demo, encode, edits):
    made = edits[0]
    captions = [scenes.caption(made.target), scenes.caption(made.scene)]
    prompts = [encode(text) for text in captions]
    both = [[torch.cat([p[0][0] for p in prompts]), prompts[0][0][1]]]
    found = find(node, demo[0], made.trajectory, both)
    alone = find(node, demo[0], made.trajectory, prompts[0])
    assert float((found - alone).abs().max()) < 1e-2


def test_the_region_is_a_mask_for_sampling(nodes, node, demo, encode, edits):
    made = edits[0]
    model = demo[0]
    positive, empty = encode(scenes.caption(made.target)), encode("")
    mask = find(node, model, made.trajectory, positive, 0.35)

    def edit(mask):
        run = nodes["NMGSample"].execute(
            *(model, made.trajectory, positive, empty),
            text_scale=3.0,
            noise_map_scale=1.5,
            gradient_scale=5000.0,
            mode="fused",
            mask=mask,
        )
        return first(run)["samples"]

    inside = mask[:, None, ::8, ::8].bool().expand(1, 4, -1, -1)
    picture = demo_picture(model, made)
    masked, uniform = edit(mask) - picture, edit(None) - picture
    assert float(masked[~inside].norm()) < float(uniform[~inside].norm())
    assert float(masked[inside].norm()) > float(uniform[inside].norm())


def demo_picture(model, made):
    return model.model.process_latent_out(made.trajectory.states[0])


# --- Any network ---------------------------------------------------------------------------------


def test_a_soft_mask_reaches_one_and_a_threshold_cuts_it(node, model, invert):
    trajectory = invert()
    soft = find(node, model, trajectory)
    assert (float(soft.min()) >= 0, float(soft.max())) == (True, 1.0)
    hard = find(node, model, trajectory, threshold=0.5)
    assert torch.equal(hard, (soft >= 0.5).float())
    grown = find(node, model, trajectory, threshold=0.5, grow=1)
    wider = torch.nn.functional.max_pool2d(hard[:, ::8, ::8][None], 3, 1, 1)[0]
    assert torch.equal(grown[:, ::8, ::8], wider)


def test_a_batch_is_two_singles_and_odd_sizes_will_do(node, model, invert):
    trajectory = invert((2, 4, 9, 7))
    both = find(node, model, trajectory)
    assert both.shape == (2, 72, 56)
    for k in range(2):
        fields = {**vars(trajectory), "states": trajectory.states[:, k : k + 1]}
        alone = find(node, model, type(trajectory)(**fields))
        assert relative(both[k : k + 1], alone) < RUN


def test_several_targets_are_united(node, model, invert):
    trajectory = invert((2, 4, 8, 8))
    prompts = [random_prompt(seed)[0][0] for seed in (2, 3)]
    both = find(node, model, trajectory, [[torch.cat(prompts).repeat_interleave(2, 0), {}]])
    singles = [find(node, model, trajectory, [[prompt, {}]]) for prompt in prompts]
    assert relative(both, torch.maximum(*singles)) < RUN


def test_nmg_sample_reads_the_cells_back_as_they_were_found(node, model, invert):
    masks = importlib.import_module("nmg_pack.nodes.host.models.latent_masks")
    trajectory = invert((1, 4, 9, 7))
    mask = find(node, model, trajectory)
    fitted = masks.fit_mask(mask, torch.Size((1, 4, 9, 7)))
    assert torch.equal(fitted[0, 0], mask[0, ::8, ::8])


def test_prompts_that_are_not_built_alike_will_do(node, model, invert):
    longer = random_prompt(2, tokens=14)
    assert find(node, model, invert(), longer).shape == (1, 64, 64)
    parts = random_prompt(2) + random_prompt(3, area=(4, 8, 0, 0), strength=1.0)
    assert find(node, model, invert(), parts).shape == (1, 64, 64)


def test_it_works_on_edit_friendly_states_and_in_a_noise_mask(node, model, invert):
    masked = invert(noise_mask=torch.ones(1, 64, 64))
    assert torch.equal(find(node, model, masked), find(node, model, invert()))
    inversion = importlib.import_module("nmg_pack.nodes.methods.edit_friendly").NMGEditFriendly
    wires = model, random_prompt(1), random_prompt(3), random_latent((1, 4, 8, 8))
    settings = {"schedule": "official-masactrl", "source_scale": 3.5, "skip": 2, "seed": 0}
    made = inversion.execute(*wires, steps=6, **settings)
    assert find(node, model, made.result[1]).shape == (1, 64, 64)


def test_it_costs_two_rows_per_level_and_leaves_no_trace(node, model, invert):
    trajectory = invert()
    before = trajectory.states.clone()
    run = node.execute(model, trajectory, random_prompt(2), threshold=0.35, grow=0, levels=2)
    (cost,) = run.ui["nmg"]
    assert (cost["forward_calls"], cost["forward_rows"], cost["backward_rows"]) == (4, 4, 0)
    assert torch.equal(trajectory.states, before)
    assert not model.model.diffusion_model._forward_pre_hooks


def test_the_same_run_twice_is_the_same_bit_for_bit(node, model, invert):
    trajectory = invert()
    assert torch.equal(find(node, model, trajectory), find(node, model, trajectory))


def test_another_model_prompt_or_setting_is_refused_with_what_to_do(node, model, invert, library):
    trajectory = invert()

    def refused(pattern, **changes):
        arguments = {
            "model": model,
            "trajectory": trajectory,
            "positive": random_prompt(2),
            "threshold": 0.35,
            "grow": 0,
            **changes,
        }
        with pytest.raises(library.NMGError, match=f"^NMG Edit Region: {pattern}"):
            node.execute(**arguments)

    refused("positive is empty", positive=[])
    refused("threshold leaves its range. Got 1.5", threshold=1.5)
    refused("grow leaves its range. Got -1", grow=-1)
    other = parity_network("two", prediction="V_PREDICTION")
    refused("trajectory was made with another model", model=other)
    without = type(trajectory)(**{**vars(trajectory), "source": None})
    refused("trajectory's source prompt is empty", trajectory=without)
    pair = type(trajectory)(
        **{**vars(trajectory), "states": trajectory.states.repeat(1, 2, 1, 1, 1)}
    )
    three = torch.cat([random_prompt(seed)[0][0] for seed in (2, 3, 4)])
    refused("positive has prompts that do not fit", trajectory=pair, positive=[[three, {}]])
