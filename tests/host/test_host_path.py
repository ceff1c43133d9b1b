"""Inversion and sampling take the host's own path: its conditions, patches, masks and habits."""

import importlib
import random

import numpy
import pytest
import torch
from host_models import (
    add_lora,
    calm_network,
    first,
    make_patcher,
    parity_network,
    parity_weights,
    random_controlnet,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
    with_lora_in_the_weights,
)

SHAPE = (1, 4, 8, 8)
STEPS = 3
# Float32 rounding of a whole run: it grows from step to step.
RUN = 1e-4


@pytest.fixture(scope="module")
def model(pack):
    with torch.inference_mode():
        return parity_network("two")


@pytest.fixture
def host(pack):
    """A module of the host by name."""
    return importlib.import_module


def invert(nodes, model, latent=None, steps=STEPS, schedule="ddim_uniform", prompt=None):
    latent = random_latent(SHAPE) if latent is None else latent
    prompt = random_prompt(1) if prompt is None else prompt
    return nodes["NMGInvert"].execute(model, prompt, latent, steps, schedule)


def guidance(nodes, mode="official", gradient="full", loss="l2", scale=1.0, **options):
    """l2: its energy has no sign in it, so rounding cannot flip an element."""
    return first(
        nodes["NMGGuidance"].execute(mode, gradient, loss, "auto", scale, 200.0, 0, 1, **options)
    )


def edit(nodes, model, trajectory, method=None, text_scale=5.0, **inputs):
    """The edit under prompts 2 and 3; without a method no noise map guidance."""
    prompts = {"positive": random_prompt(2), "negative": random_prompt(3)}
    arguments = {
        "model": model,
        "trajectory": trajectory,
        **prompts,
        "text_scale": text_scale,
        "noise_map_scale": 0.0,
        "gradient_scale": 0.0,
        "mode": "fused",
        "guidance": method,
        **inputs,
    }
    return nodes["NMGSample"].execute(**arguments)


def edited(*args, **kwargs):
    return first(edit(*args, **kwargs))["samples"]


def euler(model, latent, trajectory, cfg, positive=None, negative=None):
    """What the host's own sampler makes of the half-done latent on the same levels."""
    samplers = importlib.import_module("comfy.samplers")
    samples = latent["samples"]
    sigmas = torch.tensor([level.k_sigma for level in reversed(trajectory.schedule.levels)])
    return samplers.sample(
        model,
        torch.zeros_like(samples),
        random_prompt(2) if positive is None else positive,
        random_prompt(3) if negative is None else negative,
        cfg,
        model.load_device,
        samplers.sampler_object("euler"),
        sigmas,
        model.model_options,
        latent_image=samples,
        disable_pbar=True,
        seed=0,
    )


class Evaluations:
    """Counts what reaches the network: (rows, in a gradient pass) of each call."""

    def __init__(self):
        self.calls = []

    def on(self, model):
        counted = model.clone()

        def count(apply, args):
            self.calls.append((args["input"].shape[0], torch.is_grad_enabled()))
            return apply(args["input"], args["timestep"], **args["c"])

        counted.set_model_unet_function_wrapper(count)
        return counted


# The host's own sampler as the judge.


def _calc_function(host, args):
    options = dict(args["model_options"])
    options.pop("sampler_calc_cond_batch_function")
    given = args["conds"], args["input"], args["sigma"]
    calc = host("comfy.samplers").calc_cond_batch
    return [0.9 * prediction for prediction in calc(args["model"], *given, options)]


def _wrap(model, host, kind, change):
    wrapper_type = getattr(host("comfy.patcher_extension").WrappersMP, kind)
    model.add_wrapper(wrapper_type, lambda executor, *args, **kw: change(executor(*args, **kw)))


# A patch as other packs make them: function of (host, a clone of the model).
PATCHES = {
    "post_cfg": lambda host, model: model.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"] + 0.1 * args["cond_denoised"]
    ),
    "pre_cfg": lambda host, model: model.set_model_sampler_pre_cfg_function(
        lambda args: [args["conds_out"][0] * 0.9, args["conds_out"][1] + 0.1]
    ),
    "cfg_function": lambda host, model: model.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + 0.5 * args["cond_scale"] * (args["cond"] - args["uncond"])
    ),
    "calc_function": lambda host, model: model.set_model_sampler_calc_cond_batch_function(
        lambda args: _calc_function(host, args)
    ),
    "function_wrapper": lambda host, model: model.set_model_unet_function_wrapper(
        lambda apply, args: 0.9 * apply(args["input"], args["timestep"], **args["c"])
    ),
    "attention_patch": lambda host, model: model.set_model_attn2_patch(
        lambda q, k, v, options: (0.5 * q, k, 1.1 * v)
    ),
    "apply_model": lambda host, model: _wrap(model, host, "APPLY_MODEL", lambda out: 0.9 * out),
    "network": lambda host, model: _wrap(model, host, "DIFFUSION_MODEL", lambda out: 0.9 * out),
    "predict_noise": lambda host, model: _wrap(model, host, "PREDICT_NOISE", lambda out: 0.9 * out),
    "calc_cond_batch": lambda host, model: _wrap(
        model, host, "CALC_COND_BATCH", lambda out: [0.9 * prediction for prediction in out]
    ),
}


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_of_another_pack_acts_as_in_the_hosts_sampler(nodes, model, host, patch, cfg):
    trajectory, latent = invert(nodes, model).result
    patched = model.clone()
    PATCHES[patch](host, patched)
    expected = euler(patched, latent, trajectory, cfg)
    assert relative(edited(nodes, patched, trajectory, text_scale=cfg), expected) < RUN
    bare = euler(model, latent, trajectory, cfg)
    assert relative(expected, bare) > 100 * RUN, "the patch did nothing"


def _mask(top, left):
    mask = torch.zeros(1, 64, 64)
    mask[:, top:48, left:] = 0.75
    return mask


# A narrower condition as the host's nodes make it: function of (the host's nodes, CONDITIONING).
CONDITIONS = {
    "area": lambda host, prompt: host.ConditioningSetArea().append(prompt, 32, 40, 16, 8, 0.9)[0],
    "mask": lambda host, prompt: host.ConditioningSetMask().append(
        prompt, _mask(0, 24), "default", 0.8
    )[0],
    "mask_bounds": lambda host, prompt: host.ConditioningSetMask().append(
        prompt, _mask(16, 16), "mask bounds", 1.0
    )[0],
    "late": lambda host, prompt: host.ConditioningSetTimestepRange().set_range(prompt, 0.5, 1.0)[0],
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_condition_acts_as_in_the_hosts_sampler(nodes, model, host, kind):
    trajectory, latent = invert(nodes, model).result
    narrow = CONDITIONS[kind](host("nodes"), random_prompt(4))
    positive = random_prompt(2) + narrow
    expected = euler(model, latent, trajectory, 4.0, positive)
    got = edited(nodes, model, trajectory, text_scale=4.0, positive=positive)
    assert relative(got, expected) < RUN
    assert relative(expected, euler(model, latent, trajectory, 4.0)) > 100 * RUN


@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_condition_on_the_unconditional_prompt_is_in_the_gradient(
    differentiation, model, host, kind
):
    narrow = CONDITIONS[kind](host("nodes"), random_prompt(4))
    differentiation.followed(model, random_prompt(3) + narrow)


def test_conditioning_of_a_whole_batch_gives_each_sample_its_own(nodes, model):
    embeddings = random_tensor((2, 7, 48), 5)
    latent = random_latent((2, *SHAPE[1:]))
    both = edited(
        nodes,
        model,
        first(invert(nodes, model, latent)),
        guidance(nodes),
        positive=[[embeddings, {}]],
    )
    for index in range(2):
        one = {"samples": latent["samples"][index : index + 1]}
        trajectory = first(invert(nodes, model, one))
        single = edited(
            nodes, model, trajectory, guidance(nodes), positive=[[embeddings[index, None], {}]]
        )
        assert relative(both[index, None], single) < RUN


# LoRA, ControlNet, FreeU and their kin.


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_a_lora_is_the_same_as_its_weights_merged(nodes, model, mode):
    results = []
    for patched in (add_lora(model), with_lora_in_the_weights()):
        trajectory = first(invert(nodes, patched))
        results.append(edited(nodes, patched, trajectory, guidance(nodes, mode)))
    assert relative(*results) < RUN


def test_a_trajectory_fits_the_model_with_a_lora_added(nodes, model):
    trajectory = first(invert(nodes, model))
    plain = edited(nodes, model, trajectory, guidance(nodes))
    with_lora = edited(nodes, add_lora(model), trajectory, guidance(nodes))
    assert relative(with_lora, plain) > 100 * RUN
    assert torch.equal(edited(nodes, model, trajectory, guidance(nodes)), plain)


@pytest.fixture
def control(pack):
    return random_controlnet()


def test_a_controlnet_acts_as_in_the_hosts_sampler(nodes, model, control):
    trajectory, latent = invert(nodes, model).result
    prompts = {"positive": control(random_prompt(2)), "negative": control(random_prompt(3))}
    expected = euler(model, latent, trajectory, 4.0, **prompts)
    got = edited(nodes, model, trajectory, text_scale=4.0, **prompts)
    assert relative(got, expected) < RUN
    assert relative(expected, euler(model, latent, trajectory, 4.0)) > 100 * RUN


def test_a_controlnet_is_in_the_gradient(differentiation, model, control):
    assert next(iter(model.model.parameters())).is_inference()
    differentiation.followed(model, control(random_prompt(3)))


def test_a_controlnet_leaves_no_trace_on_its_network(differentiation, model, control):
    prompt = control(random_prompt(3))
    network = prompt[0][1]["control"].control_model
    differentiation.ours(model, prompt)
    before = [dict(vars(module)) for module in network.modules()]
    differentiation.ours(model, prompt)
    assert [dict(vars(module)) for module in network.modules()] == before


def test_a_controlnet_in_the_inversion_and_the_edit_runs_to_the_end(nodes, model, control):
    trajectory = first(invert(nodes, model, prompt=control(random_prompt(1))))
    result = edited(
        nodes,
        model,
        trajectory,
        guidance(nodes),
        positive=control(random_prompt(2), end=0.5),
        negative=control(random_prompt(3), end=0.5),
    )
    assert torch.isfinite(result).all()


def _extra(module, node, *inputs):
    """One of the host's own patches: function of (host, model) giving the patched model."""
    return lambda host, model: first(
        getattr(host(f"comfy_extras.nodes_{module}"), node).execute(model, *inputs)
    )


EXTRAS = {
    "free_u": _extra("freelunch", "FreeU", 1.3, 1.4, 0.9, 0.2),
    "free_u_v2": _extra("freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "token_merging": _extra("tomesd", "TomePatchModel", 0.5),
    "deep_shrink": _extra(
        "model_downscale", "PatchModelAddDownscale", 1, 2.0, 0.0, 1.0, True, "bilinear", "bilinear"
    ),
    "perturbed_attention": _extra("pag", "PerturbedAttentionGuidance", 2.0),
    "self_attention_guidance": _extra("sag", "SelfAttentionGuidance", 0.5, 2.0),
    "easy_cache": _extra("easycache", "EasyCacheNode", 3.0, 0.0, 1.0, False),
    "lazy_cache": _extra("easycache", "LazyCacheNode", 3.0, 0.0, 1.0, False),
}


# Token merging draws random numbers at every call, caches answer from the past: no slope to test.
SMOOTH = [name for name in EXTRAS if "cache" not in name and name != "token_merging"]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_through_a_patch_of_the_host_is_right_or_refused(
    differentiation, model, host, name
):
    differentiation.right_or_refused(EXTRAS[name](host, model.clone()))


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("name", EXTRAS)
def test_a_patch_of_the_host_runs_to_the_end_or_is_refused(nodes, model, library, host, name, mode):
    patched = EXTRAS[name](host, model.clone())
    trajectory = first(invert(nodes, patched, steps=6))
    method = guidance(nodes, mode, "full" if mode == "official" else "direct")
    try:
        result = edited(nodes, patched, trajectory, method)
    except library.NotDifferentiable as error:
        assert "direct" in str(error)  # noqa: PT017 (either outcome is right)
        return
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("name", ["free_u", "free_u_v2", "deep_shrink", "perturbed_attention"])
def test_a_patch_of_the_host_acts_as_in_its_own_sampler(nodes, model, host, name, cfg):
    trajectory, latent = invert(nodes, model).result
    patched = EXTRAS[name](host, model.clone())
    expected = euler(patched, latent, trajectory, cfg)
    assert relative(edited(nodes, patched, trajectory, text_scale=cfg), expected) < RUN
    assert relative(expected, euler(model, latent, trajectory, cfg)) > 100 * RUN


@pytest.mark.parametrize(
    ("mode", "gradient"), [("official", "full"), ("official", "direct"), ("fused", "full")]
)
def test_patches_are_told_which_prompt_is_predicted(nodes, model, mode, gradient):
    """IPAdapter and its kin act on the text prompt alone: index 0; the unconditional one is 1."""
    told = []

    def patch(q, k, v, options):
        rows = q.shape[0] // len(options["cond_or_uncond"])
        told.append((tuple(options["cond_or_uncond"]), torch.is_grad_enabled(), rows))
        return q, k, v

    patched = model.clone()
    patched.set_model_attn2_patch(patch)
    trajectory = first(invert(nodes, patched))
    assert {prompts for prompts, _, _ in told} == {(0,)}
    told.clear()
    edit(nodes, patched, trajectory, guidance(nodes, mode, gradient), text_scale=5.0)
    alone = {prompts for prompts, gradients, _ in told if gradients or len(prompts) == 1}
    if mode == "fused":
        assert alone == {(0,), (1,)}
        assert {prompts for prompts, gradients, _ in told if gradients} == {(1,)}
    else:
        assert alone == {(1,)}


def test_a_patch_of_the_text_prompt_alone_leaves_the_unconditional_gradient(differentiation, model):
    def patch(q, k, v, options):
        rows = q.shape[0] // len(options["cond_or_uncond"])
        factors = [0.0 if which == 0 else 1.0 for which in options["cond_or_uncond"]]
        return q, k, v * torch.tensor(factors).repeat_interleave(rows)[:, None, None]

    patched = model.clone()
    patched.set_model_attn2_patch(patch)
    _, gradient = differentiation.ours(patched)
    _, expected = differentiation.ours(model)
    assert relative(gradient, expected) < RUN


# Reconstruction, masks, sizes, batches.


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


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("schedule", ["official", "official-masactrl", "karras"])
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


# Calls, scales, repetition.


def test_text_guidance_in_two_calls_gives_the_same(nodes, model, monkeypatch):
    """The host splits a batch that does not fit into memory."""
    trajectory = first(invert(nodes, model))
    expected = [edited(nodes, model, trajectory, guidance(nodes, m)) for m in ("official", "fused")]
    evaluations = Evaluations()
    counted = evaluations.on(model)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *_, **__: 1e30)
    for mode, whole in zip(("official", "fused"), expected, strict=True):
        evaluations.calls.clear()
        split = edited(nodes, counted, trajectory, guidance(nodes, mode))
        assert {rows for rows, _ in evaluations.calls} == {1}
        assert relative(split, whole) < RUN


def per_step(calls, steps):
    assert len(calls) % steps == 0
    size = len(calls) // steps
    chunks = [calls[start : start + size] for start in range(0, len(calls), size)]
    assert all(chunk == chunks[0] for chunk in chunks)
    return chunks[0]


FULL, ONE, TWO = (1, True), (1, False), (2, False)


@pytest.mark.parametrize(
    ("mode", "gradient", "text_scale", "expected"),
    [
        ("official", "full", 5.0, [FULL, TWO]),
        ("official", "direct", 5.0, [ONE, TWO]),
        ("fused", "full", 5.0, [FULL, ONE]),
        ("fused", "direct", 5.0, [TWO]),
        ("official", "full", 1.0, [FULL, ONE]),
        ("fused", "direct", 1.0, [TWO]),
    ],
)
def test_a_step_costs_what_the_method_needs(nodes, model, mode, gradient, text_scale, expected):
    evaluations = Evaluations()
    counted = evaluations.on(model)
    trajectory = first(invert(nodes, counted, steps=4, schedule="official"))
    assert evaluations.calls == [ONE] * 4
    evaluations.calls.clear()
    output = edit(nodes, counted, trajectory, guidance(nodes, mode, gradient), text_scale)
    # The reference's last step goes from level 0 to level 0: it is left out.
    assert per_step(evaluations.calls, 3) == expected
    (cost,) = output.ui["nmg"]
    assert cost["forward_calls"] == len(evaluations.calls)
    assert cost["forward_rows"] == sum(rows for rows, _ in evaluations.calls)
    assert cost["backward_rows"] == sum(grad for _, grad in evaluations.calls)


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_a_text_scale_of_one_is_the_limit_of_scales_near_it(nodes, model, mode, gradient):
    trajectory = first(invert(nodes, model))
    method = guidance(nodes, mode, gradient)
    one = edited(nodes, model, trajectory, method, 1.0)
    # The second of these is 1 for the host, which then leaves the negative prompt out.
    for scale in (1.0 + 1e-5, 1.0 + 1e-11):
        assert relative(edited(nodes, model, trajectory, method, scale), one) < RUN


@pytest.mark.parametrize("mode", ["official", "fused"])
@pytest.mark.parametrize("gradient", ["full", "direct"])
def test_a_scale_of_one_computed_in_full_is_the_same(nodes, model, mode, gradient):
    trajectory = first(invert(nodes, model))
    method = guidance(nodes, mode, gradient)
    expected = edited(nodes, model, trajectory, method, 1.0)
    full = model.clone()
    full.disable_model_cfg1_optimization()
    assert relative(edited(nodes, full, trajectory, method, 1.0), expected) < RUN


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_a_second_run_is_the_same_bit_for_bit(nodes, model, mode):
    results = []
    for _ in range(2):
        trajectory, latent = invert(nodes, model).result
        output = edit(nodes, model, trajectory, guidance(nodes, mode, loss="l1"))
        results.append((trajectory.states, latent["samples"], output[0]["samples"]))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_no_global_random_state_is_touched(nodes, model):
    random.seed(5)
    generator = numpy.random.mtrand._rand  # what numpy.random.rand and its kin draw from
    states = torch.get_rng_state(), random.getstate(), str(generator.get_state())
    trajectory = first(invert(nodes, model))
    edit(nodes, model, trajectory, guidance(nodes))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert str(generator.get_state()) == states[2]


@pytest.mark.parametrize("mode", ["official", "fused"])
def test_bar_and_preview_move_once_per_step(nodes, model, host, monkeypatch, mode):
    previews, progress = [], []

    class Previewer:
        def decode_latent_to_preview_image(self, _format, x0):
            assert x0.shape == SHAPE
            assert torch.isfinite(x0).all()
            previews.append(x0)
            return b""

    monkeypatch.setattr(host("latent_preview"), "get_previewer", lambda *_: Previewer())
    monkeypatch.setattr(
        host("comfy.utils"),
        "PROGRESS_BAR_HOOK",
        lambda value, total, *_, **__: progress.append((value, total)),
    )
    trajectory = first(invert(nodes, model, steps=4, schedule="official"))
    assert [step for step in progress if step[0]] == [(step, 4) for step in range(1, 5)]
    assert len(previews) == 4
    previews.clear()
    progress.clear()
    result = edited(nodes, model, trajectory, guidance(nodes, mode))
    assert [step for step in progress if step[0]] == [(step, 3) for step in range(1, 4)]
    # The last preview is of the result: at the lowest level of the schedule hardly any noise is.
    assert relative(previews[-1], model.model.process_latent_in(result)) < 0.1


def test_a_network_of_another_config_runs_too(nodes):
    """Not only the network of the vectors: no attention in the first blocks, deeper, wider."""
    config, _ = parity_weights("two")
    config |= {"channel_mult": [1, 2, 2], "num_res_blocks": [1, 1, 1]}
    config |= {"transformer_depth": [0, 1, 1], "transformer_depth_output": [0, 0, 1, 1, 1, 1]}
    model = make_patcher(config, seed=3)
    trajectory = first(invert(nodes, model, schedule="official"))
    assert torch.isfinite(edited(nodes, model, trajectory, guidance(nodes))).all()
