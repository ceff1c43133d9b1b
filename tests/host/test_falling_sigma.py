"""What follows a falling sigma, where a run climbs, jumps or asks for one prompt alone.

Two judges: the host's own sampler, and the prediction that sampling has at the same level.
"""

import importlib
import logging

import pytest
import torch
from family_models import MODELS
from host_edits import RUN, SHAPE, edited, euler, guidance, invert
from host_models import (
    _low_rank,
    first,
    parity_weights,
    random_controlnet,
    random_latent,
    random_prompt,
    relative,
)
from host_nodes import PLAIN

pytestmark = pytest.mark.host_surface


# --- Caches ---------------------------------------------------------------------------------------


def easy_cache(host, model):
    node = host("comfy_extras.nodes_easycache").EasyCacheNode
    return first(node.execute(model, 0.2, 0.15, 0.95, False))


def lazy_cache(host, model):
    node = host("comfy_extras.nodes_easycache").LazyCacheNode
    return first(node.execute(model, 0.2, 0.15, 0.95, False))


def another_packs_cache(host, model):
    """As TeaCache and its kin are made: in the place where the network is called."""
    patched, kept = model.clone(), []

    def teacache_wrapper(apply, given):
        if not kept:
            kept.append(apply(given["input"], given["timestep"], **given["c"]))
        return kept[0][: len(given["input"])]

    patched.set_model_unet_function_wrapper(teacache_wrapper)
    return patched


CACHES = {
    "EasyCache": easy_cache,
    "LazyCache": lazy_cache,
    "a cache of another pack": another_packs_cache,
}
NETWORKS = ["SD 1.x", "Flux", "WAN", "LTX"]


@pytest.fixture(scope="module")
def loaded(pack):
    known = {}

    def get(name):
        if name not in known:
            with torch.inference_mode():
                known[name] = MODELS[name].load()
        return known[name]

    return get


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_is_taken_off_for_the_run_and_said(nodes, host, loaded, caplog, cache, name):
    small, model = MODELS[name], loaded(name)
    cached = CACHES[cache](host, model)

    def run(model):
        wires = small.prompt(1), small.latent()
        trajectory = first(
            nodes["NMGInvert"].execute(model, *wires, steps=8, schedule="official-masactrl")
        )
        wires = model, trajectory, small.prompt(2), small.prompt(3)
        edit = nodes["NMGSample"].execute(*wires, text_scale=4.0, **PLAIN)
        return trajectory.states, first(edit)["samples"]

    expected = run(model)
    with caplog.at_level(logging.INFO):
        got = run(cached)
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))
    said = [r.getMessage() for r in caplog.records if "is taken off for this run" in r.getMessage()]
    assert len(said) == 2  # one line a run


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_keeps_nothing_from_an_editor_or_a_gradient(nodes, host, demo, encode, cache):
    model = demo[0]
    latent = random_latent((1, 4, 16, 16))

    def run(model, editor=None, method=None):
        trajectory = first(
            nodes["NMGInvert"].execute(
                model, encode("a red star"), latent, steps=6, schedule="ddim_uniform"
            )
        )
        wires = model, trajectory, encode("a blue star"), encode("")
        inputs = {"text_scale": 4.0, **PLAIN, "editor": editor, "guidance": method}
        return first(nodes["NMGSample"].execute(*wires, **inputs))["samples"]

    editor = first(
        nodes["NMGPromptToPrompt"].execute(
            clip=demo[1],
            source_prompt="a red star",
            target_prompt="a blue star",
            mode="auto",
            cross_replace=0.8,
            self_replace=0.5,
            blend_words="",
            reweight="",
        )
    )
    full = guidance(nodes, "fused", "full")
    for inputs in ({"editor": editor}, {"method": full}):
        assert torch.equal(run(CACHES[cache](host, model), **inputs), run(model, **inputs))


def test_the_model_that_was_connected_keeps_its_cache(nodes, host, model):
    cached = easy_cache(host, model)
    edited(nodes, cached, first(invert(nodes, cached)))
    assert "easycache" in cached.model_options["transformer_options"]
    assert all("easycache" in by_key for by_key in cached.wrappers.values())


def test_a_cache_of_reference_pictures_is_taken_off(host, loaded, caplog):
    """Of a clone: the patch that keeps their keys and values, and answers with them."""
    node = getattr(host("comfy_extras.nodes_flux"), "FluxKVCache", None)
    if node is None:
        pytest.skip("this ComfyUI has none")
    without_caches = importlib.import_module("nmg_pack.nodes.host.network.caches").without_caches
    cached = first(node.execute(loaded("Flux")))
    with caplog.at_level(logging.INFO):
        left = without_caches(cached)
    patches = [m.model_options["transformer_options"]["patches"] for m in (left, cached)]
    assert [len(each["attn1_patch"]) for each in patches] == [0, 1]
    assert "is taken off for this run" in caplog.text


def test_an_answer_without_the_network_is_not_taken_for_an_edit(nodes, library, host, demo, encode):
    """A cache that hides well: the editor says that the network did not run."""
    model = demo[0]
    patched = model.clone()
    wrappers = host("comfy.patcher_extension").WrappersMP
    patched.add_wrapper(wrappers.DIFFUSION_MODEL, lambda executor, x, *args, **kwargs: x)
    latent = random_latent((1, 4, 16, 16))
    wires = encode("a red star"), latent
    trajectory = first(nodes["NMGInvert"].execute(model, *wires, steps=3, schedule="ddim_uniform"))
    editor = first(nodes["NMGMasaCtrl"].execute(0, 0))
    with pytest.raises(library.InvalidInput, match="without the network.*cache"):
        nodes["NMGSample"].execute(
            patched,
            trajectory,
            encode("a blue star"),
            encode(""),
            text_scale=4.0,
            **PLAIN,
            editor=editor,
        )


# --- Strengths that follow sigma ------------------------------------------------------------------


def scheduled_lora(host, prompt, model, strengths, guarantee=0):
    """A prompt with a LoRA whose strength goes by the schedule, as the host's nodes put it on."""
    hooks = host("comfy.hooks")
    group = hooks.HookKeyframeGroup()
    for place, strength in enumerate(strengths):
        start = place / len(strengths)
        group.add(hooks.HookKeyframe(strength, start_percent=start, guarantee_steps=guarantee))
    _, weights = parity_weights("two")
    names = [
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        "middle_block.1.transformer_blocks.0.ff.net.2.weight",
    ]
    adapter = importlib.import_module("comfy.weight_adapter").LoRAAdapter
    patches = {
        f"diffusion_model.{name}": adapter(
            set(), (*_low_rank(weights[name], seed), 2.0, None, None, None)
        )
        for seed, name in enumerate(names)
    }
    hook = hooks.WeightHook(strength_model=1.0)
    hook.need_weight_init = False
    hook.weights = patches
    hook.hook_keyframe = group
    made = hooks.HookGroup()
    made.add(hook)
    return hooks.set_hooks_for_conditioning(prompt, made)


SCHEDULES = {
    "rising": ((0.0, 1.0, 2.0), 0),
    "falling": ((2.0, 1.0, 0.0), 0),
    "with guaranteed steps": ((0.0, 1.5, 0.5), 1),
}


def narrow(host, model):
    """Conditions that differ from level to level, each as a function of a prompt."""
    host_nodes = host("nodes")
    made = {
        name: (lambda prompt, given=given: scheduled_lora(host, prompt, model, *given))
        for name, given in SCHEDULES.items()
    }
    made["a range of timesteps"] = lambda prompt: (
        prompt + host_nodes.ConditioningSetTimestepRange().set_range(random_prompt(9), 0.3, 0.7)[0]
    )
    control = random_controlnet()
    made["a ControlNet for a while"] = lambda prompt: control(prompt, start=0.3, end=0.7)
    return made


KINDS = [*SCHEDULES, "a range of timesteps", "a ControlNet for a while"]


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_has_it_as_the_hosts_sampler_does(nodes, host, model, kind):
    on = narrow(host, model)[kind]
    trajectory, latent = invert(nodes, model, steps=6).result
    positive = on(random_prompt(2))
    expected = euler(model, latent, trajectory, 4.0, positive)
    assert (
        relative(edited(nodes, model, trajectory, text_scale=4.0, positive=positive), expected)
        < RUN
    )
    assert relative(expected, euler(model, latent, trajectory, 4.0)) > 100 * RUN


def predictions_of_sampling(samplers, model, prompt, trajectory):
    """What the host's sampler is told at every level that it visits, of the recorded states."""
    schedule, told = trajectory.schedule, {}
    sigmas = torch.tensor([each.k_sigma for each in reversed(schedule.levels)])

    def visit(model, x, sigmas, extra_args, callback, disable):
        for place, sigma in enumerate(sigmas[:-1]):
            entry = len(sigmas) - 1 - place
            state = trajectory.states[entry] / schedule.levels[entry].alpha
            told[entry] = model(state, sigma.expand(len(state)), **extra_args)
        return x

    samplers.sample(
        model,
        torch.zeros(SHAPE),
        prompt,
        random_prompt(3),
        1.0,
        model.load_device,
        samplers.KSAMPLER(visit),
        sigmas,
        model.model_options,
        latent_image=torch.zeros(SHAPE),
        disable_pbar=True,
        seed=0,
    )
    return told


@pytest.mark.parametrize("order", ["up", "jumping"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_every_level_a_run_is_told_what_sampling_is_told(
    nodes, library, host, model, kind, order
):
    """Up as an inversion asks, and in any order as the looks at noise maps do."""
    on = narrow(host, model)[kind]
    trajectory = first(invert(nodes, model, steps=6))
    samplers = host("comfy.samplers")
    expected = predictions_of_sampling(samplers, model, on(random_prompt(2)), trajectory)
    entries = sorted(expected)
    if order == "jumping":
        entries = [*entries[::2], *reversed(entries[1::2]), entries[0]]
    runs = importlib.import_module("nmg_pack.nodes.host.runs")
    levels = importlib.import_module("nmg_pack.nmg_sampler.trajectory")
    told = []

    def procedure(predictor, x, on_step):
        for entry in entries:
            level, state = trajectory.schedule.levels[entry], trajectory.states[entry]
            eps = predictor.eps(state, level, library.Prompt.SOURCE)
            told.append((entry, levels.eps_to_x0(state, eps, level)))
        return runs.Done(x)

    conditions = {"source": on(random_prompt(2))}
    runs.run_procedure(
        model, runs.Job(conditions, torch.zeros(SHAPE), trajectory.schedule, procedure)
    )
    for entry, got in told:
        assert relative(got, expected[entry]) < RUN, f"entry {entry}"
    plain = predictions_of_sampling(samplers, model, random_prompt(2), trajectory)
    assert any(relative(plain[entry], expected[entry]) > 10 * RUN for entry in entries)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_second_run_is_the_first(nodes, host, model, kind):
    """Nothing of where a schedule got to stays for the next run, of whatever node."""
    prompt = narrow(host, model)[kind](random_prompt(1))
    one = first(invert(nodes, model, steps=6, prompt=prompt))
    edited(nodes, model, one, positive=prompt)
    assert torch.equal(first(invert(nodes, model, steps=6, prompt=prompt)).states, one.states)


# --- Context windows ------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_context_windows_are_those_of_sampling_at_every_level(
    nodes, library, host, loaded, schedule
):
    node = host("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    small, model = MODELS["WAN"], loaded("WAN")
    latent = {"samples": torch.cat([small.latent(seed)["samples"] for seed in range(3)], 2)}
    inputs = {"context_schedule": schedule, "context_length": 4, "context_overlap": 2}
    defaults = {each.id: each.default for each in node.define_schema().inputs if each.id != "model"}
    patched = first(node.execute(model, **{**defaults, **inputs, "dim": 2}))
    trajectory, half_done = (
        nodes["NMGInvert"]
        .execute(patched, small.prompt(1), latent, steps=4, schedule="official-masactrl")
        .result
    )
    plain = first(
        nodes["NMGInvert"].execute(
            model, small.prompt(1), latent, steps=4, schedule="official-masactrl"
        )
    )
    assert relative(trajectory.states[-1], plain.states[-1]) > 10 * RUN
    wires = patched, trajectory, small.prompt(2), small.prompt(3)
    got = first(nodes["NMGSample"].execute(*wires, text_scale=4.0, **PLAIN))["samples"]
    expected = euler(patched, half_done, trajectory, 4.0, small.prompt(2), small.prompt(3))
    lowest = 1 - trajectory.schedule.levels[0].sigma
    inner = model.model.process_latent_in
    assert relative(inner(got), lowest * inner(expected)) < RUN
