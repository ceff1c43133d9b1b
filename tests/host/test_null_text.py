"""Null-Text and Negative-Prompt Inversion inside the host: gradients, files, progress, cancel."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from host_models import (
    add_lora,
    calm_network,
    conditioning,
    first,
    parity_network,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
    sdxl_network,
)

from demo import scenes

SHAPE = (1, 4, 8, 8)
STEPS = 3
INNER = 4
SCALE = 4.0
RUN = 1e-4  # float32 rounding of a whole run


@pytest.fixture(scope="module")
def model(calm):
    return calm


@pytest.fixture(scope="module")
def null_text(pack):
    return importlib.import_module("nmg_pack.nodes.methods.null_text").NMGNullText


@pytest.fixture(scope="module")
def negative_prompt(pack):
    return importlib.import_module("nmg_pack.nodes.methods.negative_prompt").NMGNegativePrompt


@pytest.fixture(scope="module")
def plain(pack):
    return first(importlib.import_module("nmg_pack.nodes.methods.plain").NMGPlainGuidance.execute())


@pytest.fixture(scope="module")
def management(pack):
    return importlib.import_module("comfy.model_management")


def invert(nodes, model, shape=SHAPE, prompt=None, **latent):
    prompt = prompt or random_prompt(1)
    given = random_latent(shape, **latent)
    return first(
        nodes["NMGInvert"].execute(model, prompt, given, steps=STEPS, schedule="official-masactrl")
    )


@pytest.fixture
def trajectory(nodes, model):
    return invert(nodes, model)


def optimise(null_text, model, trajectory, **inputs):
    """(guidance, trajectory, cost)"""
    arguments = {
        "negative": random_prompt(3),
        "text_scale": SCALE,
        "inner_steps": INNER,
        "learning_rate": 0.05,
        "early_stop": 0.0,
        **inputs,
    }
    output = null_text.execute(model, trajectory, **arguments)
    return *output.result, output.ui["nmg"][0]


def sample(nodes, model, trajectory, guidance, **inputs):
    """(edit, source), by default of the source prompt."""
    arguments = {
        "positive": random_prompt(1),
        "negative": random_prompt(3),
        "text_scale": SCALE,
        "noise_map_scale": 0.0,
        "gradient_scale": 0.0,
        "mode": "fused",
        "guidance": guidance,
        **inputs,
    }
    output = nodes["NMGSample"].execute(model, trajectory, **arguments)
    return [latent["samples"] for latent in output.result]


@pytest.fixture(scope="module")
def untouched(library):
    """An editor that changes nothing."""

    class Untouched(library.Editor):
        def begin(self, run):
            return library.EditorRun(run)

    return Untouched()


# --- Null-Text Inversion -------------------------------------------------------------------------


def test_it_reconstructs_better_than_text_guidance(nodes, null_text, plain, model, trajectory):
    guidance, made, cost = optimise(null_text, model, trajectory)
    clean = trajectory.states[0] / 0.18215
    errors = [
        float((sample(nodes, model, made, each)[0] - clean).abs().mean())
        for each in (guidance, plain)
    ]
    assert errors[0] < 0.8 * errors[1]
    assert cost["forward_calls"] == STEPS * (2 + INNER)
    assert cost["forward_rows"] == STEPS * (3 + INNER)
    assert cost["backward_rows"] == STEPS * INNER


@pytest.mark.parametrize("masked", [False, True])
def test_the_replay_is_the_optimised_path_bit_for_bit(nodes, null_text, model, masked, monkeypatch):
    trajectory = invert(nodes, model, **({"noise_mask": torch.eye(8)[None]} if masked else {}))
    host = importlib.import_module("nmg_pack.nodes.host.runs.null_text")
    ends = []

    def keep(*args, **options):
        found = importlib.import_module(
            "nmg_pack.nmg_sampler.methods.null_text_optimisation"
        ).optimise_null_text(*args, **options)
        ends.append(found[1])
        return found

    monkeypatch.setattr(host, "optimise_null_text", keep)
    guidance, made, _ = optimise(null_text, model, trajectory)
    edit, _ = sample(nodes, model, made, guidance)
    assert torch.equal(edit, model.model.process_latent_out(ends[0]))


def test_no_inner_steps_are_text_guidance(nodes, null_text, plain, model, trajectory):
    guidance, _, cost = optimise(null_text, model, trajectory, inner_steps=0)
    assert torch.equal(
        sample(nodes, model, trajectory, guidance)[0], sample(nodes, model, trajectory, plain)[0]
    )
    assert cost["backward_rows"] == 0


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
def test_the_gradient_in_the_embedding_is_that_of_finite_differences(differentiation, kind):
    model = parity_network("two", prediction=kind)
    predictor_module = importlib.import_module("nmg_pack.nmg_sampler.contract.differentiation")
    negative, level = differentiation.library.Prompt.NEGATIVE, differentiation.level
    tokens, h = random_tensor((2, 7, 48), 6), 4e-3
    direction = random_tensor((2, 7, 48), 7)

    def call(predictor):
        eps, pullback = predictor_module.embedding_eps(
            predictor, differentiation.x, level, negative, tokens
        )
        shifted = [
            predictor.eps(
                differentiation.x,
                level,
                negative,
                embedding=predictor_module.PromptEmbedding(tokens + k * h * direction),
            ).double()
            for k in (2, 1, 0, -1, -2)
        ]
        return eps, pullback(differentiation.cotangent), shifted

    eps, gradient, (a, b, same, c, d) = differentiation.procedure(model, call)
    assert relative(eps, same) < 2e-5
    assert gradient.shape == tokens.shape
    assert gradient.dtype == torch.float32
    slope = float(((8 * (b - c) - (a - d)) / (12 * h) * differentiation.cotangent).sum())
    terms = (gradient * direction).double()
    assert abs(float(terms.sum()) - slope) < 2e-3 * float(terms.norm())
    assert abs(slope) > 0.1 * float(terms.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_of_half_precision_is_optimised_in_float32(nodes, null_text, dtype):
    """So close to scale 1 the slopes of the error are far below what half precision can hold."""
    half, whole = calm_network(dtype=dtype, compute_dtype=dtype), calm_network()
    made = invert(nodes, half)
    same = replace(made, model=invert(nodes, whole).model)
    found = [
        optimise(null_text, network, each, text_scale=1.0001)[0].embeddings
        for network, each in ((half, made), (whole, same))
    ]
    assert found[0].dtype == torch.float32
    moved, expected = ((each - random_prompt(3)[0][0]).flatten() for each in found)
    assert float(moved.norm()) > 0.1
    assert float(torch.cosine_similarity(moved, expected, dim=0)) > 0.9


def test_a_network_of_half_precision_reconstructs_better(nodes, null_text, plain):
    half = calm_network(dtype=torch.float16, compute_dtype=torch.float16)
    made = invert(nodes, half)
    guidance, _, _ = optimise(null_text, half, made)
    clean = made.states[0] / 0.18215
    errors = [
        float((sample(nodes, half, made, each)[0] - clean).abs().mean())
        for each in (guidance, plain)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_two_pictures_are_what_each_is_alone(nodes, null_text, model):
    made = invert(nodes, model, (2, *SHAPE[1:]))
    guidance, _, _ = optimise(null_text, model, made)
    for index in range(2):
        single = replace(made, states=made.states[:, index : index + 1])
        one, _, _ = optimise(null_text, model, single)
        assert relative(guidance.embeddings[:, index], one.embeddings[:, 0]) < 1e-3


def test_both_branches_get_it_with_an_editor(nodes, null_text, model, trajectory, untouched):
    guidance, _, _ = optimise(null_text, model, trajectory)
    own, _ = sample(nodes, model, trajectory, guidance)
    target = {"positive": random_prompt(2)}
    alone, _ = sample(nodes, model, trajectory, guidance, **target)
    edit, source = sample(nodes, model, trajectory, guidance, editor=untouched, **target)
    assert relative(source, own) < RUN
    assert relative(edit, alone) < RUN
    assert relative(edit, source) > 0.01


@pytest.fixture
def output(pack, tmp_path, monkeypatch):
    """The host's output folder, empty."""
    paths = importlib.import_module("folder_paths")
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path / "output"


def test_saved_and_loaded_it_gives_the_same_without_optimising_again(
    nodes, null_text, model, trajectory, output
):
    guidance, made, _ = optimise(null_text, model, trajectory)
    expected = sample(nodes, model, made, guidance)[0]
    path = Path(
        first(nodes["NMGSaveTrajectory"].execute(made, filename_prefix="kept", precision="float32"))
    )
    loaded = first(nodes["NMGLoadTrajectory"].execute(f"output/{path.name}"))
    again, kept, cost = optimise(null_text, model, loaded)
    assert cost == {"forward_calls": 0, "forward_rows": 0, "backward_rows": 0, "seconds": 0.0}
    assert kept is loaded
    assert torch.equal(again.embeddings, guidance.embeddings)
    assert torch.equal(sample(nodes, model, loaded, again)[0], expected)


@pytest.mark.parametrize(
    "change",
    [
        {"text_scale": 5.0},
        {"inner_steps": INNER + 1},
        {"learning_rate": 0.01},
        {"early_stop": 1e-3},
        {"negative": random_prompt(4)},
        {"negative": random_prompt(3, strength=0.5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_with_other_settings_it_is_optimised_anew(null_text, model, trajectory, change):
    _, made, _ = optimise(null_text, model, trajectory)
    _, both, cost = optimise(null_text, model, made, **change)
    assert cost["forward_calls"] > 0
    assert len(both.extras) == 2
    assert not trajectory.extras


def test_a_negative_prompt_that_cannot_be_told_from_others_is_not_kept(
    null_text, model, trajectory
):
    odd = random_prompt(3, another_packs_thing=object())
    guidance, made, cost = optimise(null_text, model, trajectory, negative=odd)
    assert made is trajectory
    assert cost["forward_calls"] > 0
    assert torch.isfinite(guidance.embeddings).all()


def with_patch(model):
    """A clone with half of what the prompt adds."""
    patched = model.clone()
    patched.set_model_attn2_output_patch(lambda out, options: 0.5 * out)
    return patched


@pytest.mark.parametrize("put", [add_lora, with_patch])
def test_what_was_optimised_without_a_patch_is_not_taken_with_one(
    null_text, model, trajectory, put
):
    _, made, _ = optimise(null_text, model, trajectory)
    patched = put(model)
    guidance, kept, cost = optimise(null_text, patched, made)
    expected, _, _ = optimise(null_text, patched, trajectory)
    assert cost["forward_calls"] > 0
    assert torch.equal(guidance.embeddings, expected.embeddings)
    assert kept is made


def test_a_mismatch_is_named_by_the_node(nodes, null_text, model, trajectory, library):
    guidance, made, _ = optimise(null_text, model, trajectory)
    with pytest.raises(library.InvalidInput, match=r"NMG Sample: text_scale .*5.0; expected 4.0"):
        sample(nodes, model, made, guidance, text_scale=5.0)
    other = invert(nodes, model, (1, 4, 8, 16))
    with pytest.raises(library.TrajectoryMismatch, match="another size"):
        sample(nodes, model, other, guidance)
    with pytest.raises(library.InvalidInput, match="Null-Text Inversion: text_scale"):
        optimise(null_text, model, trajectory, text_scale=1.0)
    two_parts = random_prompt(3) + random_prompt(4)
    with pytest.raises(library.InvalidInput, match="negative is no single prompt"):
        optimise(null_text, model, trajectory, negative=two_parts)


def test_the_noise_mask_holds_on_the_path_and_in_the_replay(nodes, null_text, model):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    made = invert(nodes, model, noise_mask=mask)
    guidance, made, _ = optimise(null_text, model, made)
    edit, source = sample(nodes, model, made, guidance)
    assert torch.equal(edit[..., 4:], source[..., 4:])
    assert not torch.equal(edit[..., :4], source[..., :4])


def test_the_progress_bar_counts_updates(null_text, model, trajectory, monkeypatch):
    utils = importlib.import_module("comfy.utils")
    seen = []
    monkeypatch.setattr(
        utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: seen.append((value, total))
    )
    optimise(null_text, model, trajectory)
    total = STEPS * (INNER + 1)
    # The host leaves out what comes too soon after the one before, but never the last.
    values = [value for value, _ in seen]
    assert values == sorted(values)
    assert values[-1] == total
    assert {each for _, each in seen} == {total}


def state_of(model):
    """What a run could leave behind: attributes and hooks of the modules, options, weights."""
    network = model.model
    return (
        {name: set(vars(module)) for name, module in network.named_modules()},
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()],
        str(model.model_options),
        [value.clone() for value in network.state_dict().values()],
    )


def assert_same(now, before):
    assert now[:3] == before[:3]
    assert all(torch.equal(*pair) for pair in zip(now[3], before[3], strict=True))


@pytest.mark.parametrize("gradient_pass", [True, False], ids=["update", "prediction"])
def test_a_cancel_comes_before_the_next_model_call(
    null_text, model, trajectory, management, gradient_pass
):
    evaluations, cancelled = [], []

    def cancel(h, options):
        if options["block"][1] == 1:
            evaluations.append(torch.is_grad_enabled())
            if evaluations.count(gradient_pass) == 2 and not cancelled:
                management.interrupt_current_processing()
                cancelled.append(len(evaluations))
        return h

    patched = model.clone()
    patched.set_model_input_block_patch(cancel)
    before = state_of(model)
    with pytest.raises(management.InterruptProcessingException):
        optimise(null_text, patched, trajectory)
    assert cancelled == [len(evaluations)]
    assert_same(state_of(model), before)


def test_it_leaves_no_trace_and_a_second_run_is_the_first(null_text, model, trajectory):
    before, states = state_of(model), trajectory.states.clone()
    wanted = [p.requires_grad for p in model.model.parameters()]
    runs = [optimise(null_text, model, trajectory)[0].embeddings for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(trajectory.states, states)
    assert_same(state_of(model), before)
    assert all(p.grad is None for p in model.model.parameters())
    assert [p.requires_grad for p in model.model.parameters()] == wanted


def test_a_model_that_cannot_be_differentiated_is_refused(null_text, library, trajectory, nodes):
    patched = calm_network()

    def detached(apply, args):
        return apply(args["input"], args["timestep"], **args["c"]).detach()

    patched.set_model_unet_function_wrapper(detached)
    with pytest.raises(library.NotDifferentiable, match="Negative-Prompt Inversion"):
        optimise(null_text, patched, trajectory)


def test_the_demo_model_keeps_its_picture(nodes, null_text, plain):
    demo = importlib.import_module("nmg_pack.nodes.demo")
    model, clip, vae = demo.NMGDemoModel.execute().result
    scene = scenes.random_scene(np.random.default_rng(3))
    picture = torch.from_numpy(scenes.render(scene)).float()[None]
    prompts = [
        clip.encode_from_tokens_scheduled(clip.tokenize(text))
        for text in (scenes.caption(scene), "")
    ]
    latent = {"samples": vae.encode(picture)}
    made = first(
        nodes["NMGInvert"].execute(model, prompts[0], latent, steps=5, schedule="official-masactrl")
    )
    guidance, made, _ = optimise(
        null_text, model, made, negative=prompts[1], text_scale=7.5, learning_rate=0.01
    )
    errors = [
        float((edit - latent["samples"]).abs().mean())
        for edit, _ in (
            sample(
                nodes, model, made, each, positive=prompts[0], negative=prompts[1], text_scale=7.5
            )
            for each in (guidance, plain)
        )
    ]
    assert errors[0] < 0.8 * errors[1]


# --- Negative-Prompt Inversion -------------------------------------------------------------------


def pooled_prompt(seed, tokens=7):
    """A prompt as SDXL takes it: with its pooled embedding and sizes."""
    pooled = random_tensor((1, 1280), 50 + seed)
    embedding = random_tensor((1, tokens, 48), seed)
    return conditioning(embedding, pooled_output=pooled, width=64, height=64)


NETWORKS = {"sd1": (calm_network, random_prompt), "sdxl": (sdxl_network, pooled_prompt)}


@pytest.mark.parametrize("family", NETWORKS)
def test_the_source_prompt_at_any_scale_is_scale_one(
    nodes, negative_prompt, plain, untouched, family
):
    make, prompt = NETWORKS[family]
    model = make()
    made = invert(nodes, model, prompt=prompt(1))
    guidance = first(negative_prompt.execute(0.0))
    prompts = {"positive": prompt(1), "negative": prompt(3)}
    expected, _ = sample(nodes, model, made, plain, **{**prompts, "text_scale": 1.0})
    for scale in (0.0, 9.0):
        got, _ = sample(nodes, model, made, guidance, **{**prompts, "text_scale": scale})
        assert relative(got, expected) < RUN
    target = {**prompts, "positive": prompt(2)}
    edit, source = sample(nodes, model, made, guidance, editor=untouched, **target)
    assert relative(source, expected) < RUN
    # As with the source prompt connected as negative by hand.
    by_hand, _ = sample(nodes, model, made, plain, **{**target, "negative": prompt(1)})
    assert relative(edit, by_hand) < RUN
    assert relative(edit, source) > 0.01


@pytest.mark.parametrize("family", NETWORKS)
def test_interpolation_ends_at_the_negative_prompt(nodes, negative_prompt, plain, family):
    make, prompt = NETWORKS[family]
    model = make()
    made = invert(nodes, model, prompt=prompt(1))
    prompts = {"positive": prompt(2), "negative": prompt(3, tokens=14)}
    ends = sample(nodes, model, made, plain, **prompts)[0]
    got = sample(nodes, model, made, first(negative_prompt.execute(1.0)), **prompts)[0]
    assert torch.equal(got, ends)
    near = sample(nodes, model, made, first(negative_prompt.execute(0.999)), **prompts)[0]
    half = sample(nodes, model, made, first(negative_prompt.execute(0.5)), **prompts)[0]
    assert relative(near, ends) < 0.02
    assert relative(half, ends) > 0.02


def test_null_text_on_sdxl_keeps_the_vector_of_the_negative_prompt(nodes, null_text, plain):
    model = sdxl_network()
    made = invert(nodes, model, prompt=pooled_prompt(1))
    prompts = {"positive": pooled_prompt(1), "negative": pooled_prompt(3)}
    guidance, made, _ = optimise(
        null_text, model, made, negative=prompts["negative"], inner_steps=0
    )
    got, expected = (sample(nodes, model, made, g, **prompts)[0] for g in (guidance, plain))
    assert torch.equal(got, expected)
    guidance, made, _ = optimise(null_text, model, made, negative=prompts["negative"])
    errors = [
        float(
            (sample(nodes, model, made, each, **prompts)[0] - made.states[0] / 0.13025).abs().mean()
        )
        for each in (guidance, plain)
    ]
    assert errors[0] < errors[1]
