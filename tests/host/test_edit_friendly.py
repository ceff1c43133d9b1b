"""Edit-Friendly Inversion inside the host: the picture comes back, seeds, masks, files, editors."""

import importlib

import numpy as np
import pytest
import torch
from host_models import (
    first,
    random_latent,
    random_prompt,
    relative,
    sdxl_network,
)
from host_nodes import PLAIN

from demo import scenes

SHAPE = (1, 4, 8, 8)
STEPS, SKIP = 6, 2
SCALE = 3.5
RUN = 1e-4  # float32 rounding of a whole run


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def node(pack):
    return importlib.import_module("nmg_pack.nodes.methods.edit_friendly").NMGEditFriendly


@pytest.fixture(scope="module")
def uncoupled(library):
    """A source branch beside the edit, and nothing between them."""

    class Uncoupled(library.Editor):
        def begin(self, run):
            return library.EditorRun(run)

    return Uncoupled()


@pytest.fixture(scope="module")
def invert(node, model):
    def call(latent=None, **changes):
        arguments = {
            "model": model,
            "positive": random_prompt(1),
            "negative": random_prompt(3),
            "latent_image": latent or random_latent(SHAPE),
            "steps": STEPS,
            "schedule": "official-masactrl",
            "source_scale": SCALE,
            "skip": SKIP,
            "seed": 0,
            **changes,
        }
        return node.execute(**arguments)

    return call


@pytest.fixture(scope="module")
def edit(nodes, model):
    def call(guidance, trajectory, **changes):
        """(edit, source, cost) under another prompt and scale."""
        arguments = {
            "model": model,
            "trajectory": trajectory,
            "positive": random_prompt(2),
            "negative": random_prompt(3),
            "text_scale": 7.0,
            "noise_map_scale": 1.5,
            "gradient_scale": 5000.0,
            "mode": "fused",
            "guidance": guidance,
            **changes,
        }
        output = nodes["NMGSample"].execute(**arguments)
        edits, source = (latent["samples"] for latent in output.result)
        return edits, source, output.ui["nmg"][0]

    return call


def same_prompt(**changes):
    return {"positive": random_prompt(1), "text_scale": SCALE, **changes}


@pytest.mark.parametrize("schedule", ["official-masactrl", "official", "normal", "karras"])
@pytest.mark.parametrize("skip", [0, SKIP])
@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_every_state_comes_back_bit_for_bit(invert, edit, nodes, library, schedule, skip, scale):
    guidance, trajectory = invert(schedule=schedule, skip=skip, source_scale=scale).result
    states = []
    begin = type(guidance).begin

    class Watching(type(guidance)):
        def begin(self, run):
            working = begin(self, run)
            settle = working.settle
            working.settle = lambda *moment: states.append(settle(*moment)) or states[-1]
            return working

    edit(Watching(), trajectory, **same_prompt(text_scale=scale))
    assert len(states) == len(trajectory.states) - 1 == STEPS - skip
    for entry, state in enumerate(reversed(states)):
        assert entry == 0 or torch.equal(state.cpu(), trajectory.states[entry])


def test_the_cost_is_two_rows_per_step_that_is_not_skipped(invert, edit):
    made = invert()
    steps = STEPS - SKIP
    cost = made.ui["nmg"][0]
    rows = (cost["forward_calls"], cost["forward_rows"], cost["backward_rows"])
    # The last step leads to the picture, whatever the model says.
    assert rows == (steps - 1, 2 * (steps - 1), 0)
    cost = edit(*made.result)[2]
    rows = (cost["forward_calls"], cost["forward_rows"], cost["backward_rows"])
    assert rows == (steps, 2 * steps, 0)
    cost = invert(source_scale=1.0).ui["nmg"][0]
    assert (cost["forward_calls"], cost["forward_rows"]) == (steps - 1, steps - 1)


def test_the_same_seed_is_the_same_bit_for_bit_and_another_is_another_edit(invert, edit):
    before = torch.get_rng_state()
    one, same, other = (edit(*invert(seed=seed).result)[0] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert relative(one, other) > 0.01
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_of_a_batch_is_edited_as_alone(invert, edit):
    latent = random_latent((2, 4, 8, 8))
    both = edit(*invert(latent).result)[0]
    alone = edit(*invert({"samples": latent["samples"][:1]}).result)[0]
    assert both.shape == (2, 4, 8, 8)
    assert relative(both[:1], alone) < RUN


def test_several_edits_at_once_are_those_made_one_by_one(invert, edit):
    made = invert().result
    prompts = [random_prompt(seed)[0][0] for seed in (1, 2)]
    both = edit(*made, positive=[[torch.cat(prompts), {}]])[0]
    for index, prompt in enumerate(prompts):
        alone = edit(*made, positive=[[prompt, {}]])[0]
        assert relative(both[index : index + 1], alone) < RUN


def test_odd_sizes_will_do(invert, edit):
    made = invert(random_latent((1, 4, 9, 7))).result
    assert edit(*made)[0].shape == (1, 4, 9, 7)


def test_outside_a_noise_mask_the_latent_stays_bit_for_bit(invert, edit, model):
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    latent = random_latent(SHAPE, noise_mask=mask)
    made = invert(latent).result
    edited = edit(*made)[0]
    recorded = model.model.process_latent_out(made[1].states[0])
    assert torch.equal(edited[..., 4:], recorded[..., 4:])
    assert relative(edited[..., :4], latent["samples"][..., :4]) > 0.01


def test_outside_a_mask_on_nmg_sample_the_latent_stays(invert, edit):
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    latent = random_latent(SHAPE)
    edited = edit(*invert(latent).result, mask=mask)[0]
    assert relative(edited[..., 4:], latent["samples"][..., 4:]) < 1e-6
    assert relative(edited[..., :4], latent["samples"][..., :4]) > 0.01


def test_a_saved_and_loaded_trajectory_gives_the_identical_edit(invert, edit, library, tmp_path):
    guidance, trajectory = invert().result
    library.save_trajectory(trajectory, tmp_path / "x")
    loaded = library.load_trajectory(tmp_path / "x")
    assert torch.equal(edit(guidance, trajectory)[0], edit(guidance, loaded)[0])


def test_beside_an_editor_the_same_prompt_is_the_source_which_is_the_reconstruction(
    invert, edit, uncoupled
):
    made = invert().result
    alone = edit(*made, **same_prompt())[0]
    edits, source, _ = edit(*made, **same_prompt(editor=uncoupled))
    assert relative(edits, source) < RUN
    assert relative(source, alone) < RUN
    edits, source, _ = edit(*made, text_scale=SCALE, editor=uncoupled)
    assert relative(source, alone) < RUN
    assert relative(edits, source) > 0.01


def test_pix2pix_zero_couples_its_edit_to_the_source(invert, edit, nodes):
    made = invert(skip=4).result
    editor = first(nodes["NMGPix2PixZero"].execute(0.02))
    edits, source, cost = edit(*made, text_scale=SCALE, editor=editor)
    free = edit(*made, text_scale=SCALE)[0]
    assert relative(edits, free) > 10 * RUN
    assert relative(source, edit(*made, **same_prompt())[0]) < RUN
    assert cost["backward_rows"] == 2 * 2


def test_sdxl_comes_back_too(node, nodes):
    model = sdxl_network()
    prompts = [random_prompt(s, pooled_output=torch.zeros(1, 1280)) for s in (1, 3)]
    latent = random_latent((1, 4, 8, 8))
    settings = {"schedule": "official-masactrl", "source_scale": SCALE, "seed": 0}
    guidance, trajectory = node.execute(
        *(model, *prompts, latent), steps=4, skip=1, **settings
    ).result
    sampled = nodes["NMGSample"].execute(
        *(model, trajectory, *prompts), text_scale=SCALE, **PLAIN, guidance=guidance
    )
    assert torch.isfinite(first(sampled)["samples"]).all()
    # The zeroed noise of the last step is all that is missing; its level is nearly clean.
    assert relative(first(sampled)["samples"], latent["samples"]) < 0.2


# --- The two kinds of trajectory, and what is refused --------------------------------------------


def test_each_method_refuses_the_other_kind_before_the_model_is_asked(
    invert, edit, nodes, model, library
):
    guidance, trajectory = invert().result
    with pytest.raises(library.InvalidInput, match="^NMG Sample: trajectory is of the wrong kind"):
        edit(None, trajectory)
    with pytest.raises(library.InvalidInput, match="^NMG Sample: trajectory is of the wrong kind"):
        edit(library.PlainGuidance(), trajectory)
    plain = first(
        nodes["NMGInvert"].execute(
            model, random_prompt(1), random_latent(SHAPE), steps=STEPS, schedule="official-masactrl"
        )
    )
    with pytest.raises(library.InvalidInput, match="wrong kind.*Edit-Friendly Inversion"):
        edit(guidance, plain)


def test_bad_inputs_are_refused_with_what_to_do(invert, library):
    def refused(pattern, **changes):
        with pytest.raises(library.NMGError, match=f"^Edit-Friendly Inversion: {pattern}"):
            invert(**changes)

    refused("skip leaves no step. Got 6 of 6 steps", skip=6)
    refused("steps are too few", steps=0)
    refused("source_scale leaves its range", source_scale=float("nan"))
    refused("positive is empty", positive=[])
    refused("negative is empty", negative=[])
    refused("latent_image has 16 channels", latent_image=random_latent((1, 16, 8, 8)))


def test_it_leaves_no_trace(invert, model):
    latent = random_latent(SHAPE)
    before = latent["samples"].clone()
    options = repr(model.model_options)
    invert(latent)
    assert torch.equal(latent["samples"], before)
    assert repr(model.model_options) == options
    assert not model.model.diffusion_model._forward_pre_hooks


# --- The demo model ------------------------------------------------------------------------------


def test_the_demo_picture_comes_back_and_an_edit_changes_its_colour(nodes, node):
    model, clip, vae = nodes["NMGDemoModel"].execute().result
    scene = scenes.random_scene(np.random.default_rng(1))
    latent = {"samples": vae.encode(torch.from_numpy(scenes.render(scene))[None])}

    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    source, empty = encode(scenes.caption(scene)), encode("")
    settings = {"schedule": "official-masactrl", "source_scale": SCALE, "seed": 0}
    guidance, trajectory = node.execute(
        *(model, source, empty, latent), steps=20, skip=7, **settings
    ).result

    def sample(prompt, scale):
        wires = model, trajectory, prompt, empty
        run = nodes["NMGSample"].execute(*wires, text_scale=scale, **PLAIN, guidance=guidance)
        return first(run)["samples"]

    back = relative(sample(source, SCALE), latent["samples"])
    assert back < 0.03
    colour = next(c for c in scenes.colours if c not in (scene.colour, scene.background))
    target = encode(scenes.caption(scenes.edit(scene, "colour", colour)))
    assert relative(sample(target, 9.0), latent["samples"]) > 3 * back
