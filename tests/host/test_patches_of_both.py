"""Patches that look at text and negative prompt together see them together, whatever is asked."""

import importlib
from functools import partial

import pytest
import torch
from family_models import MODELS
from host_edits import RUN, SHAPE, STEPS, edit, edited, euler, guidance, invert
from host_models import (
    FLOAT32,
    LORA,
    Differentiation,
    conditioning,
    first,
    random_controlnet,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
)

pytestmark = pytest.mark.host_surface

# So small a hold that nothing is left of it, and yet every pass of it is made.
VANISHING = 1e-9
KINDS = [("fused", "direct"), ("fused", "full"), ("official", "direct"), ("official", "full")]


# --- patches: functions of (host, a clone of the model) giving the patched model -----------------


def _extra(module, node, *inputs, **named):
    """One of the host's own."""

    def put(host, model):
        kind = getattr(host(f"comfy_extras.nodes_{module}"), node)
        made = getattr(kind, "execute", None) or getattr(kind(), kind.FUNCTION)
        made = made(model, *inputs, **named)
        return made[0] if isinstance(made, tuple) else first(made)

    return put


def _sharpened(host, model):
    host("comfy_extras.nodes_post_processing")  # they import each other: this one goes first
    module = host("comfy_extras.nodes_latent")
    sharpen = first(module.LatentOperationSharpen.execute(3, 1.0, 0.5))
    return first(module.LatentApplyOperationCFG.execute(model, sharpen))


def _mixes(_, model):
    """Both prompts are drawn to each other: as no patch of the host does to the negative one."""

    def patch(out, options):
        told = options["cond_or_uncond"]
        if sorted(told) != [0, 1]:
            return out
        text, null = (out.chunk(2)[told.index(which)] for which in (0, 1))
        mixed = {0: 0.7 * text + 0.3 * null, 1: 0.6 * null + 0.4 * text}
        return torch.cat([mixed[which] for which in told])

    model.set_model_attn2_output_patch(patch)
    return model


def _wraps_call(_, model):
    """Looks at both predictions of a call, and not where there is one."""

    def wrapper(executor, model, conds, *args):
        text, null = executor(model, conds, *args)
        return [text, null] if None in conds else [0.9 * text + 0.1 * null, 0.8 * null + 0.2 * text]

    model.add_wrapper("calc_cond_batch", wrapper)
    return model


def _wraps_network(_, model):
    def wrapper(apply, args):
        out = apply(args["input"], args["timestep"], **args["c"])
        return out if len(args["cond_or_uncond"]) < 2 else out + 0.1 * out.mean(0, keepdim=True)

    model.set_model_unet_function_wrapper(wrapper)
    return model


def _of_rows(args, rows, told):
    """The arguments of a model function for some rows of its call, and whose they are."""
    c, x = args["c"], args["input"]
    options = c["transformer_options"]
    order = [args["cond_or_uncond"].index(which) for which in told]
    own = {"cond_or_uncond": told, "uuids": [options["uuids"][place] for place in order]}
    cut = {k: v[rows] if torch.is_tensor(v) and len(v) == len(x) else v for k, v in c.items()}
    return x[rows], args["timestep"][rows], {**cut, "transformer_options": {**options, **own}}


def _calls_apart(_, model):
    """Each prompt in a call of its own, as packs for little memory do."""

    def wrapper(apply, args):
        told, results = args["cond_or_uncond"], []
        parts = torch.arange(len(args["input"])).chunk(len(told))
        for which, rows in zip(told, parts, strict=True):
            x, sigma, c = _of_rows(args, rows, [which])
            results.append((1.0, 1.1)[which] * apply(x, sigma, **c))
        return torch.cat(results)

    model.set_model_unet_function_wrapper(wrapper)
    return model


def _turns_around(host, model):
    """The prompts of a call in the other order, and patches that are told so."""

    def wrapper(apply, args):
        told = args["cond_or_uncond"]
        rows = torch.cat(torch.arange(len(args["input"])).chunk(len(told))[::-1])
        x, sigma, c = _of_rows(args, rows, told[::-1])
        return apply(x, sigma, **c)[rows.argsort()]

    model.set_model_unet_function_wrapper(wrapper)
    return _mixes(host, model)


def _in_turn(*patches):
    def put(host, model):
        for patch in patches:
            model = patch(host, model)
        return model

    return put


def _picture_tokens(_, model):
    """A picture beside the text and none beside the negative prompt, as IPAdapter has it."""
    attend = importlib.import_module("comfy.ldm.modules.attention").optimized_attention

    def patch(q, k, v, options):
        told, width = options["cond_or_uncond"], q.shape[-1]
        tokens = {0: random_tensor((1, 4, width), 21), 1: torch.zeros(1, 4, width)}
        seen = torch.cat([tokens[which].repeat(len(q) // len(told), 1, 1) for which in told])
        heads = options["n_heads"]
        return attend(q, k, v, heads) + 0.7 * attend(q, seen, seen, heads)

    model.set_model_attn2_replace(patch, "middle", 0)
    model.set_model_attn2_replace(patch, "output", 1)
    return model


# Of the network: what is seen there depends on what else is in the call.
NETWORK = {
    "mixing": _mixes,
    "call_wrapper": _wraps_call,
    "function_wrapper": _wraps_network,
    "turned_around": _turns_around,
    "NAGuidance": _extra("nag", "NAGuidance", 5.0, 0.5, 1.5),
    "SelfAttentionGuidance": _extra("sag", "SelfAttentionGuidance", 0.5, 2.0),
}
# Rules of guidance, and patches that take each row by itself.
RULES = {
    "in_their_own_calls": _calls_apart,
    "PerturbedAttentionGuidance": _extra("pag", "PerturbedAttentionGuidance", 2.0),
    "HyperTile": _extra("hypertile", "HyperTile", 32, 1, 0, False),
    "UNetSelfAttentionMultiply": _extra(
        "attention_multiply", "UNetSelfAttentionMultiply", 1.0, 1.0, 1.2, 1.0
    ),
    "CFGZeroStar": _extra("cfg", "CFGZeroStar"),
    "CFGNorm": _extra("cfg", "CFGNorm", 0.9),
    "Mahiro": _extra("mahiro", "Mahiro"),
    "TCFG": _extra("tcfg", "TCFG"),
    "APG": _extra("apg", "APG", 0.5, 5.0, 0.5),
    "FreSca": _extra("fresca", "FreSca", 1.0, 1.5, 2),
    "RescaleCFG": _extra("model_advanced", "RescaleCFG", 0.7),
    "RenormCFG": _extra("lumina2", "RenormCFG", 100, 1.0),
    "EpsilonScaling": _extra("eps", "EpsilonScaling", 1.05),
    "TemporalScoreRescaling": _extra("eps", "TemporalScoreRescaling", 0.8, 1.0),
    "VideoLinearCFGGuidance": _extra("video_model", "VideoLinearCFGGuidance", 1.5),
    "VideoTriangleCFGGuidance": _extra("video_model", "VideoTriangleCFGGuidance", 1.5),
    "CFGOverride": _extra("custom_sampler", "CFGOverride", 2.0, 0.0, 1.0),
    "LatentApplyOperationCFG": _sharpened,
    "picture_tokens": _picture_tokens,
    "three_at_once": _in_turn(
        _extra("nag", "NAGuidance", 5.0, 0.5, 1.5),
        _extra("pag", "PerturbedAttentionGuidance", 2.0),
        _extra("model_advanced", "RescaleCFG", 0.7),
    ),
    "PerpNeg": lambda host, model: _extra("perpneg", "PerpNeg", random_prompt(4), 1.0)(host, model),
}
PATCHES = {**NETWORK, **RULES}


@pytest.fixture
def put(host, model):
    """A patch on a clone of the model, by name."""

    def put(name, on=model):
        try:
            return PATCHES[name](host, on.clone())
        except (ModuleNotFoundError, AttributeError) as error:
            pytest.skip(f"this ComfyUI has no such node: {error}")

    return put


@pytest.fixture(scope="module")
def made(nodes, model):
    """(trajectory, half-done latent)"""
    with torch.inference_mode():
        return invert(nodes, model).result


def two_steps(model, latent, trajectory, cfg, **prompts):
    """`official` in the host's own terms: a step without text, its result taken to be at the level
    it started from, then a step with it. The first is what the network makes of both prompts."""

    def sampler(denoise, x, sigmas, extra_args, **_):
        seen = []

        def look(args):
            seen.append(args["conds_out"][1])
            return args["conds_out"]

        looking = {
            **extra_args["model_options"],
            "sampler_pre_cfg_function": [look],
            "sampler_post_cfg_function": [],
            "disable_cfg1_optimization": True,
        }
        for sigma, to in zip(sigmas[:-1], sigmas[1:], strict=True):
            at = sigma.expand(len(x))
            denoise(x, at, **{**extra_args, "model_options": looking})
            moved = torch.lerp(seen[-1], x, to / sigma)
            moved = moved * ((1 + sigma**2) / (1 + to**2)) ** 0.5
            x = torch.lerp(denoise(moved, at, **extra_args), moved, to / sigma)
        return x

    own = importlib.import_module("comfy.samplers").KSAMPLER(sampler)
    return euler(model, latent, trajectory, cfg, sampler=own, **prompts)


JUDGES = {"fused": euler, "official": two_steps}

CASES = [(name, kind, cfg) for name in NETWORK for kind in KINDS for cfg in (4.0, 1.0)]
CASES += [(name, KINDS[full], 4.0) for name in RULES for full in (0, 1)]
# What is told of a negative prompt that the host leaves out.
CASES += [(name, KINDS[0], 1.0) for name in RULES]
CASES += [(name, KINDS[1], 1.0) for name in ("APG", "FreSca", "LatentApplyOperationCFG")]


@pytest.mark.parametrize(("name", "kind", "cfg"), CASES, ids=str)
def test_without_a_hold_it_is_the_hosts_own_sampler(nodes, model, put, made, name, kind, cfg):
    trajectory, latent = made
    patched, judge = put(name), JUDGES[kind[0]]
    expected = judge(patched, latent, trajectory, cfg)
    method = guidance(nodes, *kind, scale=VANISHING)
    assert relative(edited(nodes, patched, trajectory, method, text_scale=cfg), expected) < RUN
    if cfg != 1:
        bare = judge(model, latent, trajectory, cfg)
        assert relative(expected, bare) > 50 * RUN, "the patch did nothing"


def weight_hook(host):
    """A LoRA on a prompt: the host changes the weights for its evaluations."""
    hooks = host("comfy.hooks")
    name = f"diffusion_model.{LORA[0]}"
    hook = hooks.WeightHook(strength_model=1.0)
    hook.weights = {name: ("diff", (random_tensor((32, 32), 8),))}
    hook.need_weight_init = False
    group = hooks.HookGroup()
    group.add(hook)
    return group


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("on_both", [True, False])
@pytest.mark.parametrize("thing", ["ControlNet", "hook"])
def test_with_what_the_prompts_bring_along(nodes, host, put, made, thing, on_both, cfg):
    """One call may take both prompts only where both bring the same."""
    trajectory, latent = made
    patched, plain = put("three_at_once"), (random_prompt(2), random_prompt(3))
    if thing == "hook":
        options = {"hooks": weight_hook(host)}
    else:
        ((_, options),) = random_controlnet()(plain[0])
    brought = [conditioning(prompt[0][0], **options) for prompt in plain]
    positive, negative = brought[0], brought[1] if on_both else plain[1]
    expected = euler(patched, latent, trajectory, cfg, positive, negative)
    prompts = {"positive": positive, "negative": negative}
    for kind in KINDS[:2]:
        method = guidance(nodes, *kind, scale=VANISHING)
        got = edited(nodes, patched, trajectory, method, text_scale=cfg, **prompts)
        assert relative(got, expected) < RUN
    assert relative(expected, euler(patched, latent, trajectory, cfg)) > 50 * RUN


# --- what is asked of the network ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixing", "TCFG", "APG"])
def test_the_unconditional_prediction_is_one_whoever_makes_it(library, put, name):
    """Text guidance tells the noise map term what the network says, before any rule changes it."""
    differentiation = Differentiation(text=random_prompt(5))
    x, level = differentiation.x, differentiation.level

    def call(predictor):
        request = library.Request(x, level, 4.0, needs_negative=True)
        told = predictor.guided(request).negative
        return told, predictor.eps(x, level, library.Prompt.NEGATIVE)

    told, alone = differentiation.procedure(put(name), call)
    assert relative(told, alone) < FLOAT32


def test_the_text_is_predicted_beside_what_stands_in_the_negative_ones_place(library, put):
    patched = put("mixing")
    differentiation = Differentiation(text=random_prompt(5))
    x, level = differentiation.x, differentiation.level
    other = library.PromptEmbedding(random_prompt(1)[0][0])

    def text(embedding):
        def call(predictor):
            return predictor.eps(x, level, library.Prompt.POSITIVE, embedding=embedding)

        return call

    got = differentiation.procedure(patched, text(other))
    expected = differentiation.procedure(patched, text(None), random_prompt(1))
    assert relative(got, expected) < FLOAT32
    assert relative(got, differentiation.procedure(patched, text(None))) > 50 * RUN


@pytest.mark.parametrize("name", ["mixing", "call_wrapper", "function_wrapper"])
def test_the_gradient_is_the_slope_of_what_both_make_of_it(put, name):
    """Through the rows of the text as well, where these change those of the negative prompt."""
    patched = put(name)
    differentiation = Differentiation(text=random_prompt(5))
    differentiation.followed(patched)
    _, apart = Differentiation().ours(patched)
    assert relative(apart, differentiation.ours(patched)[1]) > 50 * RUN


# --- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("name", ["mixing", "NAGuidance", "TCFG"])
@pytest.mark.parametrize("method", ["npi", "proximal"])
def test_the_source_prompt_in_the_negative_ones_place(nodes, library, put, made, method, name, cfg):
    trajectory, latent = made
    patched = put(name)
    methods = {
        "npi": library.NegativePromptGuidance(),
        # Looks at both predictions in every step, and goes nowhere.
        "proximal": library.ProximalGuidance(
            quantile=0.0, recon_strength=VANISHING, recon_start=0.0
        ),
    }
    result = edited(nodes, patched, trajectory, methods[method], text_scale=cfg)
    expected = euler(patched, latent, trajectory, cfg, negative=random_prompt(1))
    assert relative(result, expected) < RUN


@pytest.mark.parametrize(
    "name", ["mixing", "NAGuidance", "PerturbedAttentionGuidance", "CFGOverride"]
)
def test_null_text_brings_a_reconstruction_closer(nodes, model, put, made, name, caplog):
    """Its updates reckon with the text of the step's first embedding and with plain guidance, its
    path with the model as it is."""
    trajectory, _ = made
    patched, sets = put(name), {"text_scale": 4.0, "inner_steps": 5, "learning_rate": 0.05}
    method = first(nodes["NMGNullText"].execute(patched, trajectory, random_prompt(3), **sets))
    assert "a patch on the model takes part in text guidance" in caplog.text
    caplog.clear()
    first(nodes["NMGNullText"].execute(model, trajectory, random_prompt(3), 4.0, 0, 0.05))
    assert "a patch on the model" not in caplog.text
    free, held = (
        edited(nodes, patched, trajectory, each, 4.0, positive=random_prompt(1))
        for each in (None, method)
    )
    picture = random_latent(SHAPE)["samples"]
    assert relative(held, picture) < relative(free, picture)


@pytest.mark.parametrize("name", ["mixing", "NAGuidance", "TCFG", "APG"])
def test_an_edit_friendly_run_goes_the_way_of_its_inversion(nodes, put, name):
    patched = put(name)
    prompts = random_prompt(1), random_prompt(3)
    drawn = {"steps": STEPS, "schedule": "ddim_uniform", "source_scale": 4.0, "skip": 0, "seed": 0}
    output = nodes["NMGEditFriendly"].execute(patched, *prompts, random_latent(SHAPE), **drawn)
    method, trajectory = output.result
    asked = []

    def note(executor, x, *args):
        asked.append(x)
        return executor(x, *args)

    patched.add_wrapper("predict_noise", note)
    edited(nodes, patched, trajectory, method, 4.0, positive=prompts[0])
    last = trajectory.states[1] / trajectory.schedule.levels[1].alpha
    assert relative(asked[-1], last) < RUN


def test_token_merging_draws_as_in_the_hosts_sampler(nodes, host, model, made):
    """It takes its random numbers from where everyone does: as many calls, as many numbers."""
    patched = _extra("tomesd", "TomePatchModel", 0.5)(host, model.clone())
    torch.manual_seed(0)
    expected = euler(patched, made[1], made[0], 4.0)
    torch.manual_seed(0)
    assert relative(edited(nodes, patched, made[0], text_scale=4.0), expected) < RUN


# --- editors -------------------------------------------------------------------------------------


class Watching:
    """An attention edit that has every layer come through it and changes none."""

    def wants(self, layer):
        return True

    def __call__(self, call):
        return call.plain()


@pytest.fixture(scope="module")
def watching(library):
    class Given(library.Editor):
        def __init__(self, change):
            self.change = change

        def begin(self, run):
            editing = library.EditorRun(run)
            editing.attention = lambda step: self.change
            return editing

    return Given(Watching())


def _alike(nodes, patched, trajectory, latent, editor, method, cfg, source):
    """The edit is as without the editor, and the source is the same text guidance, or `source`."""
    output = edit(nodes, patched, trajectory, method, text_scale=cfg, editor=editor)
    edits, branch = (each["samples"] for each in output.result)
    assert relative(edits, euler(patched, latent, trajectory, cfg)) < RUN
    expected = source(patched, latent, trajectory, cfg, positive=random_prompt(1))
    assert relative(branch, expected) < RUN


BESIDE = ["mixing", "NAGuidance", "SelfAttentionGuidance", "TCFG", "APG"]
BESIDE += ["PerturbedAttentionGuidance", "in_their_own_calls", "turned_around"]
BESIDE += ["picture_tokens", "three_at_once"]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("name", BESIDE)
def test_beside_an_editor_that_changes_nothing(nodes, put, made, watching, name, kind):
    """The held rows are the source's: their text is the source prompt."""
    method = guidance(nodes, *kind, scale=VANISHING)
    _alike(nodes, put(name), *made, watching, method, 4.0, JUDGES[kind[0]])


def test_an_editor_is_told_whose_attention_a_patch_asks_for(nodes, put, made, watching, library):
    """Self-Attention Guidance predicts under the negative prompt alone, in the text's place."""
    halves = []

    class Noting(Watching):
        def __call__(self, call):
            halves.append((call.layer.index, call.half))
            return call.plain()

    editor = type(watching)(Noting())
    edit(nodes, put("SelfAttentionGuidance"), made[0], editor=editor)
    of_first = [half for layer, half in halves if layer == 0]
    assert of_first.count(library.Half.COND) * 2 == of_first.count(library.Half.UNCOND)


@pytest.mark.parametrize("name", ["mixing", "NAGuidance", "TCFG"])
def test_before_the_first_step_of_masactrl(nodes, put, made, name):
    editor = first(nodes["NMGMasaCtrl"].execute(STEPS, 0))
    _alike(nodes, put(name), *made, editor, None, 4.0, euler)


@pytest.mark.parametrize("halves", ["together", "separate"])
@pytest.mark.parametrize("name", ["mixing", "NAGuidance", "TCFG"])
def test_a_vanishing_step_of_pix2pix_zero(nodes, put, made, name, halves):
    editor = first(nodes["NMGPix2PixZero"].execute(VANISHING, halves))
    _alike(nodes, put(name), *made, editor, None, 4.0, euler)


@pytest.mark.parametrize("halves", ["together", "separate"])
def test_a_step_of_pix2pix_zero_is_the_same_beside_a_patch_that_does_nothing(
    nodes, library, model, made, halves
):
    patched = model.clone()
    patched.set_model_attn2_output_patch(lambda out, options: out)
    editor = first(nodes["NMGPix2PixZero"].execute(0.02, halves))
    target = conditioning(random_prompt(1)[0][0] + 0.5 * random_prompt(2)[0][0])
    with_it, without = (
        edited(
            nodes,
            each,
            made[0],
            library.NegativePromptGuidance(),
            4.0,
            editor=editor,
            positive=target,
        )
        for each in (patched, model)
    )
    assert relative(with_it, without) < RUN


# --- transformers --------------------------------------------------------------------------------

SKIPS = {"start_percent": 0.0, "end_percent": 1.0}
FLOWS = {
    "NAGuidance": ("Flux", _extra("nag", "NAGuidance", 5.0, 0.5, 1.5)),
    "SkipLayerGuidanceDiT": (
        "Flux",
        _extra(
            "slg", "SkipLayerGuidanceDiT", scale=3.0, double_layers="0", single_layers="0", **SKIPS
        ),
    ),
    "SkipLayerGuidanceDiTSimple": (
        "SD 3",
        _extra("slg", "SkipLayerGuidanceDiTSimple", double_layers="0", single_layers="0", **SKIPS),
    ),
    "SkipLayerGuidanceSD3": (
        "SD 3",
        _extra("sd3", "SkipLayerGuidanceSD3", layers="0", scale=3.0, **SKIPS),
    ),
    "ScaleROPE": ("Flux", _extra("rope", "ScaleROPE", 1.3, 0.0, 1.2, 0.0, 1.0, 0.0)),
    "WanContextWindowsManual": (
        "WAN",
        _extra(
            "context_windows",
            "WanContextWindowsManualNode",
            5,
            1,
            "standard_static",
            1,
            False,
            "pyramid",
            False,
        ),
    ),
}


@pytest.fixture(scope="module")
def flow(nodes):
    """(small model, loaded, trajectory, half-done latent) of a family, made once."""
    found = {}

    def get(name):
        if name not in found:
            small = MODELS[name]
            model = small.load()
            inputs = model, small.prompt(1), small.latent()
            output = nodes["NMGInvert"].execute(*inputs, steps=STEPS, schedule="official-masactrl")
            found[name] = small, model, *output.result
        return found[name]

    return get


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS[:2], ids="-".join)
@pytest.mark.parametrize("name", FLOWS)
def test_of_a_transformer(nodes, host, flow, name, kind, cfg):
    family, patch = FLOWS[name]
    small, model, trajectory, latent = flow(family)
    try:
        patched = patch(host, model.clone())
    except (ModuleNotFoundError, AttributeError) as error:
        pytest.skip(f"this ComfyUI has no such node: {error}")
    prompts = {"positive": small.prompt(2), "negative": small.prompt(3)}
    expected = euler(patched, latent, trajectory, cfg, **prompts)
    method = guidance(nodes, *kind, scale=VANISHING)
    result = edited(nodes, patched, trajectory, method, text_scale=cfg, **prompts)
    inner = model.model.process_latent_in
    # The host divides what is left at the lowest level by 1 - sigma.
    expected = (1 - trajectory.schedule.levels[0].sigma) * inner(expected)
    assert relative(inner(result), expected) < RUN


def test_a_wrapper_that_tells_the_rows_of_a_call_half_is_refused_by_an_editor(
    nodes, library, model, made, watching
):
    """It says whose rows they are, and not under which ids."""
    patched = model.clone()

    def wrapper(apply, args):
        options = {**args["c"]["transformer_options"], "cond_or_uncond": [0]}
        results = [
            apply(x, sigma, c_crossattn=text, transformer_options=options)
            for x, sigma, text in zip(
                *(part.chunk(2) for part in (args["input"], args["timestep"])),
                args["c"]["c_crossattn"].chunk(2),
                strict=True,
            )
        ]
        return torch.cat(results)

    patched.set_model_unet_function_wrapper(wrapper)
    with pytest.raises(library.InvalidInput, match="editor got other rows than its branches"):
        edit(nodes, patched, made[0], editor=watching)


# --- refused by name, before anything runs -------------------------------------------------------


@pytest.fixture
def refused(library, model, monkeypatch):
    def never(*_args, **_named):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(type(model.model), "apply_model", never)
    return partial(pytest.raises, library.InvalidInput)


@pytest.mark.parametrize(
    "name",
    [
        "Mahiro",
        "VideoLinearCFGGuidance",
        "VideoTriangleCFGGuidance",
        "RenormCFG",
        "TemporalScoreRescaling",
    ],
)
def test_a_rule_over_all_rows_is_refused_beside_a_source(nodes, put, made, watching, refused, name):
    with refused(match=r"model has a rule of guidance.*Got .* with 2 pictures"):
        edit(nodes, put(name), made[0], editor=watching)


@pytest.mark.parametrize("name", ["Mahiro", "VideoLinearCFGGuidance", "RenormCFG"])
def test_a_rule_over_all_rows_is_refused_with_several_edits(nodes, put, made, refused, name):
    embedding = torch.cat([random_prompt(seed)[0][0] for seed in (2, 5)])
    with refused(match=r"model has a rule of guidance.*Got .* with 2 pictures"):
        edit(nodes, put(name), made[0], positive=[[embedding, {}]])


def test_a_rule_with_a_memory_is_refused_where_branches_are_predicted_apart(
    nodes, put, made, refused
):
    editor = first(nodes["NMGPix2PixZero"].execute(0.1))
    with refused(match="model has a rule of guidance.*Adaptive Projected Guidance"):
        edit(nodes, put("APG"), made[0], editor=editor)


@pytest.mark.parametrize("family", ["Flux", "SD 3"])
def test_a_rule_with_a_memory_is_refused_where_a_step_takes_several_calls(
    nodes, library, host, flow, family, monkeypatch
):
    """As for edits under prompts of unequal length: each would go on from the other one."""
    small, model, trajectory, _ = flow(family)
    short, negative = small.prompt(2), small.prompt(3)
    longer = [[torch.cat([short[0][0]] * 2, 1), short[0][1]]]
    joined = host("nmg_pack.nodes.host.network.several").join_prompts([short, longer])
    patched = PATCHES["APG"](host, model.clone())
    edited(nodes, patched, trajectory, positive=longer, negative=negative)
    monkeypatch.setattr(type(model.model), "apply_model", None)
    with pytest.raises(library.InvalidInput, match="Adaptive Projected Guidance with 2 calls"):
        edited(nodes, patched, trajectory, positive=joined, negative=negative)


def test_a_patch_that_makes_both_predictions_is_refused_where_each_is_asked_alone(
    nodes, model, made, refused
):
    patched = model.clone()
    patched.set_model_sampler_calc_cond_batch_function(lambda args: None)
    editor = first(nodes["NMGPix2PixZero"].execute(0.1))
    with refused(match="model has a patch that makes both predictions itself"):
        edit(nodes, patched, made[0], editor=editor)


def _guiders(host, model):
    prompts = [random_prompt(seed) for seed in (2, 3, 4)]
    custom = host("comfy_extras.nodes_custom_sampler")
    yield host("comfy_extras.nodes_perpneg").PerpNegGuider.execute(model, *prompts, 4.0, 1.0)
    yield custom.DualCFGGuider.execute(model, *prompts, 4.0, 4.0, "regular")
    if hasattr(custom, "DualModelGuider"):
        yield custom.DualModelGuider.execute(model, prompts[0], 4.0, model, prompts[1])


def test_another_guider_is_refused_by_name(nodes, host, model, made, refused):
    trajectory, latent = made
    sampler, sigmas = nodes["NMGSampler"].execute(trajectory).result
    for output in _guiders(host, model):
        guider = first(output)
        samples = latent["samples"]
        with refused(match=rf"guider does not say.*{type(guider).__name__}"):
            guider.sample(torch.zeros_like(samples), samples, sampler, sigmas)
