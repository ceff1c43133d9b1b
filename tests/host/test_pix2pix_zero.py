"""pix2pix-zero inside the host: the gradient is right, nothing is left behind, nothing piles up."""

import importlib
import logging
import weakref

import numpy as np
import pytest
import torch
from host_models import (
    calm_network,
    conditioning,
    first,
    parity_network,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
)

from demo import scenes

SHAPE = (1, 4, 8, 8)
STEPS = 3
RUN = 1e-4  # float32 rounding of a whole run
# A longer step overshoots on this network: it makes of rounding a difference in the picture.
SCALE = 0.02
each_choice = pytest.mark.parametrize("halves", ["together", "separate"])


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def node(pack):
    return importlib.import_module("nmg_pack.nodes.editors.pix2pix_zero").NMGPix2PixZero


@pytest.fixture(scope="module")
def method(pack):
    return importlib.import_module("nmg_pack.nmg_sampler.editors.pix2pix_zero")


@pytest.fixture(scope="module")
def attention(pack):
    return importlib.import_module("nmg_pack.nmg_sampler.contract.attention")


def invert(nodes, model, shape=SHAPE, steps=STEPS):
    return first(
        nodes["NMGInvert"].execute(
            model, random_prompt(1), random_latent(shape), steps=steps, schedule="official-masactrl"
        )
    )


@pytest.fixture
def trajectory(nodes, model):
    return invert(nodes, model)


def moved(seed=2, strength=0.5):
    """The source prompt, moved in a direction."""
    return conditioning(random_prompt(1)[0][0] + strength * random_prompt(seed)[0][0])


def edit(nodes, model, trajectory, editor=None, **inputs):
    """(edit, source, cost), without noise map guidance."""
    arguments = {
        "positive": moved(),
        "negative": random_prompt(3),
        "text_scale": 4.0,
        "noise_map_scale": 0.0,
        "gradient_scale": 0.0,
        "mode": "fused",
        "editor": editor,
        **inputs,
    }
    output = nodes["NMGSample"].execute(model, trajectory, **arguments)
    edits, source = (latent["samples"] for latent in output.result)
    return edits, source, output.ui["nmg"][0]


def free(nodes, model, trajectory, **inputs):
    """The edit of one branch, without an editor."""
    return edit(nodes, model, trajectory, **inputs)[0]


@each_choice
def test_without_a_direction_the_edit_is_the_source_which_is_its_reconstruction(
    nodes, model, trajectory, node, halves
):
    editor = first(node.execute(SCALE, halves))
    same, source, _ = edit(nodes, model, trajectory, editor, positive=random_prompt(1))
    assert relative(same, source) < RUN
    assert relative(source, free(nodes, model, trajectory, positive=random_prompt(1))) < RUN


def test_a_scale_of_zero_is_text_guidance_of_both_in_one_call_per_step(
    nodes, model, trajectory, node
):
    edits, source, cost = edit(nodes, model, trajectory, first(node.execute(0.0)))
    assert relative(edits, free(nodes, model, trajectory)) < RUN
    assert relative(source, free(nodes, model, trajectory, positive=random_prompt(1))) < RUN
    assert (cost["forward_calls"], cost["forward_rows"]) == (STEPS, 4 * STEPS)
    assert cost["backward_rows"] == 0


@each_choice
def test_the_edit_follows_and_the_source_does_not(nodes, model, trajectory, node, halves):
    editor = first(node.execute(SCALE, halves))
    edits, source, cost = edit(nodes, model, trajectory, editor)
    assert relative(edits, free(nodes, model, trajectory)) > 20 * RUN
    assert relative(source, free(nodes, model, trajectory, positive=random_prompt(1))) < RUN
    # Source, two gradient passes, targets; in two calls where each half has its own state.
    assert cost["forward_rows"] == (2 + 2 + 2) * STEPS
    assert cost["backward_rows"] == 2 * STEPS
    assert cost["forward_calls"] == (4 if halves == "together" else 5) * STEPS


def energy(library, attention, predictor, reference, x, level):
    """L of the targets, the sums written out in float64."""

    class Summing:
        def wants(self, layer):
            return layer.attends is library.Attends.CROSS

        def __call__(self, call):
            maps = attention.probabilities(call.q, call.k).double()
            theirs = reference[call.layer.index, call.half]
            # Mean over the two halves and the heads.
            totals.append((maps - theirs).square().sum((-1, -2)).mean(1).sum() / 2)
            return call.plain()

    totals = []
    for prompt in (library.Prompt.NEGATIVE, library.Prompt.POSITIVE):
        predictor.eps(x, level, prompt, Summing())
    return float(sum(totals))


def test_the_state_goes_down_the_gradient_of_finite_differences(
    nodes, library, runs, node, attention
):
    """The network "two" as it is: what its maps do is felt."""
    model, got, h = parity_network("two"), {}, 4e-3
    made = invert(nodes, model)
    branches = library.Branches(1, 1, True)
    step = made.schedule.descent()[1]
    x = random_tensor((2, *SHAPE[1:]), 7)
    direction = random_tensor(SHAPE, 4)

    class Keeping:
        def __init__(self):
            self.maps = {}

        def wants(self, layer):
            return layer.attends is library.Attends.CROSS

        def __call__(self, call):
            maps = attention.probabilities(call.q, call.k).double()
            self.maps[call.layer.index, call.half] = maps
            return call.plain()

    def procedure(predictor, latent, _):
        run = library.Run(predictor, made, STEPS, 4.0, branches)
        request = library.Request(x, step.level, 4.0)
        state, _ = first(node.execute(0.25)).begin(run).predict(request, step)
        source = Keeping()
        predictor.guided(
            library.Request(x[:1], step.level, 4.0, rows=library.Rows.SOURCE, attention=source)
        )
        states = [x[1:] + k * h * direction for k in (2, 1, -1, -2)]
        values = [
            energy(library, attention, predictor, source.maps, each, step.level) for each in states
        ]
        got.update(state=state, values=values)
        return runs.Done(latent)

    conditions = {
        "source": random_prompt(1),
        "positive": moved(),
        "negative": random_prompt(3),
    }
    samples = torch.zeros(SHAPE)
    job = runs.Job(conditions, samples, made.schedule, procedure, None, branches, (7, 7))
    runs.run_procedure(model, job)
    assert torch.equal(got["state"][:1], x[:1])
    terms = ((x - got["state"])[1:] / 0.25 * direction).double()
    a, b, c, d = got["values"]
    slope = (8 * (b - c) - (a - d)) / (12 * h)
    assert abs(float(terms.sum()) - slope) < 2e-3 * float(terms.norm())
    assert abs(slope) > 0.1 * float(terms.norm())


@each_choice
def test_cond_and_uncond_in_two_calls_are_the_same_edit(
    nodes, model, trajectory, node, halves, monkeypatch
):
    editor = first(node.execute(SCALE, halves))
    together, _, _ = edit(nodes, model, trajectory, editor)
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1e30)
    apart, _, _ = edit(nodes, model, trajectory, editor)
    assert relative(apart, together) < RUN


@each_choice
def test_two_pictures_and_two_directions_are_what_each_is_alone(nodes, model, node, halves):
    editor = first(node.execute(SCALE, halves))
    made = invert(nodes, model, (2, *SHAPE[1:]))
    rows = torch.cat([moved(seed)[0][0] for seed in (2, 5) for _ in range(2)])
    edits, source, _ = edit(nodes, model, made, editor, positive=conditioning(rows))
    assert edits.shape == (4, *SHAPE[1:])
    for target, seed in enumerate((2, 5)):
        for picture in range(2):
            single = type(made)(
                made.states[:, picture : picture + 1], made.schedule, made.model, made.source
            )
            one, own, _ = edit(nodes, model, single, editor, positive=moved(seed))
            assert relative(edits[2 * target + picture], one[0]) < RUN
            assert relative(source[picture], own[0]) < RUN


@each_choice
def test_a_longer_negative_prompt_does_not_matter(nodes, model, trajectory, node, halves):
    """In one call with the prompt, which is repeated for it; in the gradient pass alone."""
    longer = random_prompt(3, tokens=14)
    editor = first(node.execute(SCALE, halves))
    arguments = {"positive": random_prompt(1), "negative": longer}
    same, source, _ = edit(nodes, model, trajectory, editor, **arguments)
    assert relative(same, source) < RUN


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_it_goes_with_noise_map_guidance(nodes, model, trajectory, node, mode):
    guidance = {"noise_map_scale": 1.0, "gradient_scale": 500.0, "mode": mode}
    editor = first(node.execute(SCALE))
    edits, source, _ = edit(nodes, model, trajectory, editor, **guidance)
    own = free(nodes, model, trajectory, positive=random_prompt(1), **guidance)
    assert relative(source, own) < RUN
    assert torch.isfinite(edits).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_that_computes_in_half_precision_has_its_gradient(nodes, node, dtype):
    """Maps are float32 whatever they are made of."""
    half = calm_network(dtype=dtype, compute_dtype=dtype)
    made = invert(nodes, half)
    edits, source, _ = edit(nodes, half, made, first(node.execute(SCALE)))
    assert torch.isfinite(edits).all()
    assert not torch.equal(edits, free(nodes, half, made))
    assert relative(source, free(nodes, half, made, positive=random_prompt(1))) < 0.1


def test_a_prompt_of_another_length_is_refused(nodes, model, trajectory, library, node):
    editor = first(node.execute(SCALE))
    with pytest.raises(library.InvalidInput, match="NMG Sample: positive .*Got 14 .*expected 7"):
        edit(nodes, model, trajectory, editor, positive=random_prompt(2, tokens=14))


def test_a_combined_negative_is_refused(nodes, model, trajectory, library, node):
    negative = random_prompt(3) + random_prompt(4)
    with pytest.raises(library.InvalidInput, match="NMG Sample: negative has several parts"):
        edit(nodes, model, trajectory, first(node.execute(SCALE)), negative=negative)


def test_a_model_without_a_gradient_is_refused_with_what_to_do(
    nodes, model, trajectory, library, node
):
    def cut(apply_model, args):
        return apply_model(args["input"].detach(), args["timestep"], **args["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(cut)
    with pytest.raises(library.NotDifferentiable, match="attention_scale to 0"):
        edit(nodes, patched, trajectory, first(node.execute(SCALE)))
    edits, _, _ = edit(nodes, patched, trajectory, first(node.execute(0.0)))
    assert torch.isfinite(edits).all()


def test_what_is_kept_of_the_source_is_of_one_step(nodes, model, node, method, monkeypatch):
    alive, counts = weakref.WeakSet(), []

    class Watched(method.SourceAttention):
        def __init__(self):
            super().__init__()
            alive.add(self)
            counts.append(len(alive))

    monkeypatch.setattr(method, "SourceAttention", Watched)
    edit(nodes, model, invert(nodes, model, steps=6), first(node.execute(SCALE)))
    assert counts == [1] * 6
    assert not alive


def test_it_leaves_no_trace_even_when_cancelled(
    nodes, model, trajectory, node, method, monkeypatch
):
    management = importlib.import_module("comfy.model_management")
    before = free(nodes, model, trajectory)
    network = model.model.diffusion_model
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}

    class Cancelling(method.AttentionDistance):
        def __call__(self, call):
            management.interrupt_current_processing()
            management.throw_exception_if_processing_interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(method, "AttentionDistance", Cancelling)
        with pytest.raises(management.InterruptProcessingException):
            edit(nodes, model, trajectory, first(node.execute(SCALE)))
    assert {name: set(vars(module)) for name, module in network.named_modules()} == attributes
    assert not network._forward_pre_hooks
    assert not network._forward_hooks
    assert "patches_replace" not in model.model_options["transformer_options"]
    assert torch.equal(free(nodes, model, trajectory), before)


def test_a_second_run_of_the_same_editor_is_the_first(nodes, model, trajectory, node):
    editor = first(node.execute(SCALE))
    runs = [edit(nodes, model, trajectory, editor)[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_the_memory_is_said_once_per_run_beforehand(nodes, model, trajectory, node, caplog):
    door = importlib.import_module("nmg_pack.nodes.host.network.door").door_to
    assert door(model.model.diffusion_model).word_maps((8, 7)) == [
        (56, 4), (16, 4), (16, 4), (16, 4), (16, 4), (56, 4), (56, 4)
    ]  # fmt: skip
    caplog.set_level(logging.INFO)
    edit(nodes, model, trajectory, first(node.execute(SCALE)))
    seen = [r.getMessage() for r in caplog.records if "attention maps" in r.getMessage()]
    assert len(seen) == 1
    assert "MB of attention maps" in seen[0]


def test_settings_that_cannot_be_are_refused_in_the_nodes_name(library, node):
    with pytest.raises(library.InvalidInput, match="^pix2pix-zero: start and end"):
        node.execute(attention_scale=0.1, halves="together", start=0.5, end=0.5)


def test_on_the_demo_model_it_keeps_what_the_direction_does_not_mean(nodes, node):
    """Noise map guidance holds the source to the picture, and this the edit to the source."""
    model, clip, vae = nodes["NMGDemoModel"].execute().result
    scene = scenes.random_scene(np.random.default_rng(3))
    changed = scenes.edit(scene, "colour", "green")

    def encoded(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    latent = {"samples": vae.encode(torch.from_numpy(scenes.render(scene))[None])}
    prompts = [encoded(scenes.caption(each)) for each in (scene, changed)]
    made = first(
        nodes["NMGInvert"].execute(
            model, prompts[0], latent, steps=20, schedule="official-masactrl"
        )
    )
    outside = torch.from_numpy(~scenes.mask(scene, changed))
    picture = vae.decode(latent["samples"])[0]
    errors = []
    for scale in (0.0, 0.5):  # 20 steps want more of it than the paper's 50
        editor = first(node.execute(scale))
        arguments = {"positive": prompts[1], "negative": encoded("")}
        arguments |= {"noise_map_scale": 1.5, "gradient_scale": 5000.0}
        samples, _, _ = edit(nodes, model, made, editor, **arguments)
        errors.append(float((vae.decode(samples)[0] - picture)[outside].square().mean()))
    assert errors[1] < 0.5 * errors[0]
