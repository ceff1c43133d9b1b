"""Patches of the host and of other packs act in inversion and sampling as in the host's sampler."""

import pytest
import torch
from host_edits import RUN, SHAPE, edit, edited, euler, guidance, invert
from host_models import first, random_prompt, relative

pytestmark = pytest.mark.host_surface


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
    # What is left to be told of both, since one that looks at both cannot be told apart from them.
    assert {prompts for prompts, _, _ in told} == {(1, 0)}
    assert {rows for _, _, rows in told} == {SHAPE[0]}
    assert any(gradients for _, gradients, _ in told) is (gradient == "full")


def test_a_patch_of_the_text_prompt_alone_leaves_the_unconditional_gradient(differentiation, model):
    def patch(q, k, v, options):
        rows = q.shape[0] // len(options["cond_or_uncond"])
        factors = [0.0 if which == 0 else 1.0 for which in options["cond_or_uncond"]]
        return q, k, v * torch.tensor(factors).repeat_interleave(rows)[:, None, None]

    patched = model.clone()
    patched.set_model_attn2_patch(patch)
    _, expected = differentiation.ours(model)
    for text in (None, random_prompt(5)):
        differentiation.text = text
        _, gradient = differentiation.ours(patched)
        assert relative(gradient, expected) < RUN
