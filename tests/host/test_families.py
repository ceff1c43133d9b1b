"""Every model family, as the host loads it: detected, inverted, sampled, differentiated."""

import importlib
from dataclasses import replace

import pytest
import torch
from family_models import FLOWS, MODELS, SDXL, TOKENIZERS, UNETS, VIDEOS
from host_models import Differentiation, conditioning, first, relative, tokenizer_alone
from host_nodes import PLAIN
from host_nodes import guidance as noise_map_guidance

# What a family is to the host, and what the host's own sampler makes of it; what methods do on top
# of that is no matter of the version.
host_surface = pytest.mark.host_surface

EVERY = sorted(MODELS)
# SD 2.x has the network of SD 1.x: where that is all that matters, once is enough.
NETWORKS = [name for name in EVERY if not name.startswith("SD 2.x") and name != "SDXL v"]
STEPS = 6
HELD = {"text_scale": 4.0, "noise_map_scale": 1.0, "gradient_scale": 2000.0, "mode": "fused"}
DRAWN = {"steps": STEPS, "source_scale": 4.0, "skip": 2, "seed": 0}  # by Edit-Friendly Inversion
# A schedule makes the levels, a family what happens between them: all schedules on one that
# preserves variance and on one that flows, the first of them on the others.
ON_ALL_SCHEDULES = ("SD 1.x", "Flux")


def with_schedules(*schedules):
    pairs = [
        (name, schedule)
        for name in EVERY
        for schedule in (schedules if name in ON_ALL_SCHEDULES else schedules[:1])
    ]
    return pytest.mark.parametrize(("name", "schedule"), pairs)


@pytest.fixture(scope="module")
def loaded(pack):
    """The models by name, each loaded once."""
    made = {}

    def load(name):
        if name not in made:
            made[name] = MODELS[name].load()
        return made[name]

    return load


@pytest.fixture
def invert(nodes, loaded):
    def run(name, steps=STEPS, schedule="simple", batch=1, tokens=7, **options):
        small = MODELS[name]
        node, latent = nodes["NMGInvert"], small.latent(batch=batch)
        model = options.pop("model", None) or loaded(name)
        prompt = small.prompt(1, tokens)
        return node.execute(model, prompt, latent, steps=steps, schedule=schedule, **options).args

    return run


@pytest.fixture
def sample(nodes, loaded):
    def run(name, trajectory, text_scale=4.0, prompt=2, model=None, **options):
        small = MODELS[name]
        positive = prompt if isinstance(prompt, list) else small.prompt(prompt)
        wires = model or loaded(name), trajectory, positive, small.prompt(3)
        return nodes["NMGSample"].execute(*wires, text_scale=text_scale, **PLAIN, **options)

    return run


@pytest.fixture
def guidance(nodes):
    return lambda **inputs: noise_map_guidance(nodes, gradient_scale=2000.0, **inputs)


@host_surface
@pytest.mark.parametrize("name", EVERY)
def test_the_host_detects_it_and_the_pack_knows_what_it_is(loaded, model_tools, name):
    small, model = MODELS[name], loaded(name)
    assert type(model.model).__name__ == small.host_class
    identity = model_tools.identify(model)
    assert identity.family.value == small.family
    assert (identity.prediction, identity.latent_format) == (small.prediction, small.latent_format)


@host_surface
def test_sdxl_of_real_size_is_detected_and_known(model_tools):
    """Its shape tells the host what it is, so only the real one will do: here without memory."""
    detection = importlib.import_module("comfy.model_detection")
    patcher = importlib.import_module("comfy.model_patcher")
    network = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel
    operations = importlib.import_module("comfy.ops").disable_weight_init
    weights = network(**SDXL, device="meta", operations=operations).state_dict()
    config = detection.model_config_from_unet(weights, "")
    assert type(config).__name__ == "SDXL"
    config.set_inference_dtype(torch.float16, None)
    made = config.get_model(weights, "", device=torch.device("meta"))
    model = patcher.ModelPatcher(made, torch.device("meta"), torch.device("meta"))
    identity = model_tools.identify(model)
    assert (identity.family.value, identity.prediction) == ("vp", "eps")
    assert identity.latent_format == "SDXL"
    schedule = model_tools.make_schedule(model, "official", 50)
    assert schedule.levels[-1].k_sigma == pytest.approx(14.6146, rel=1e-4)


@with_schedules("simple", "official-masactrl")
def test_inversion_and_sampling_close_on_each_other(invert, sample, name, schedule):
    """The error is of first order: four times the steps, some quarter of it."""

    def error(steps):
        trajectory, _ = invert(name, steps, schedule)
        back = first(sample(name, trajectory, text_scale=1.0, prompt=1))["samples"]
        return relative(back, MODELS[name].latent()["samples"])

    coarse, fine = error(4), error(16)
    # The first step of "official-masactrl" leaves the picture's own level, however many follow.
    evenly = schedule == "official-masactrl" and MODELS[name].prediction == "eps"
    assert fine < (coarse if evenly else coarse / 2.5)
    assert fine < 0.15


@pytest.mark.parametrize("name", NETWORKS)
def test_refined_inversion_is_closed(invert, sample, name):
    trajectory, _ = invert(name, 12, refine_iterations=6)
    back = first(sample(name, trajectory, text_scale=1.0, prompt=1))["samples"]
    assert relative(back, MODELS[name].latent()["samples"]) < 1e-3


@host_surface
@with_schedules("simple", "normal", "beta", "official-masactrl")
def test_one_end_is_the_picture_and_the_other_the_half_done_latent(invert, loaded, name, schedule):
    small, inner = MODELS[name], loaded(name).model.process_latent_in
    trajectory, latent = invert(name, schedule=schedule)
    picture, noisiest, level = *trajectory.states[[0, -1]], trajectory.schedule.levels[-1]
    assert torch.equal(picture, inner(small.latent()["samples"]))
    # What a sampler of the host multiplies the latent by; at pure noise of a flow that is nothing.
    share = level.alpha if small.family == "vp" else 1 - level.sigma
    share = 1.0 if share < 1e-4 else share
    torch.testing.assert_close(share * inner(latent["samples"]), noisiest, rtol=0, atol=1e-6)
    assert bool(torch.isfinite(trajectory.states).all())
    assert relative(noisiest, picture) > 0.05


@host_surface
@pytest.mark.parametrize("name", EVERY)
def test_text_guidance_alone_is_the_euler_sampler_of_the_host(invert, sample, loaded, name):
    """From the half-done latent, without noise: so all of the conditioning arrives."""
    custom = importlib.import_module("comfy.sample").sample_custom
    sampler = importlib.import_module("comfy.samplers").sampler_object("euler")
    small = MODELS[name]
    trajectory, latent = invert(name, schedule="official-masactrl")
    sigmas = [level.k_sigma for level in reversed(trajectory.schedule.levels)]
    host = custom(
        loaded(name),
        torch.zeros_like(latent["samples"]),
        4.0,
        sampler,
        torch.tensor(sigmas),
        small.prompt(2),
        small.prompt(3),
        latent["samples"],
        disable_pbar=True,
    )
    ours = first(sample(name, trajectory))["samples"]
    # Both end at the lowest level, where there is a little noise left: the host scales that too.
    lowest = trajectory.schedule.levels[0]
    scale = 1 - lowest.sigma if small.family == "flow" else lowest.alpha
    inner = loaded(name).model.process_latent_in
    assert relative(inner(ours), scale * inner(host)) < 1e-4


PARTS = [
    (name, part)
    for name in EVERY
    for part in ("tokens", "pooled_output", *MODELS[name].options)
    if part != "pooled_output" or MODELS[name].pooled
]


@host_surface
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_every_part_of_the_conditioning_counts(invert, sample, name, part):
    trajectory, _ = invert(name)
    [[tokens, options]] = MODELS[name].prompt(2)
    if part == "tokens":
        tokens = tokens + 1
    else:
        options = {**options, part: options[part] + 1}
    before = first(sample(name, trajectory))["samples"]
    after = first(sample(name, trajectory, prompt=conditioning(tokens, **options)))["samples"]
    assert relative(after, before) > 1e-5


LEVELS = {"vp": (0.6, 0.8), "flow": (1.0, 0.7)}


def differentiation(name, plan=None):
    small = MODELS[name]
    return Differentiation(plan, (2, *small.shape), small.prompt(2), LEVELS[small.family])


@host_surface
@pytest.mark.parametrize("name", EVERY)
def test_the_gradient_is_the_slope_of_the_prediction(loaded, name):
    differentiation(name).followed(loaded(name))


@host_surface
@pytest.mark.parametrize("name", NETWORKS)
def test_every_memory_plan_gives_the_same_gradient(loaded, name):
    kept, *others = importlib.import_module("nmg_pack.nodes.host.gradient.plans").PLANS
    _, expected = differentiation(name, kept.value).ours(loaded(name))
    for plan in others:
        _, again = differentiation(name, plan.value).ours(loaded(name))
        assert torch.equal(again, expected), plan


@pytest.mark.parametrize("mode", ["fused", "official"])
@pytest.mark.parametrize("gradient", ["direct", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_noise_map_guidance_holds_the_picture(invert, sample, guidance, name, mode, gradient):
    trajectory, _ = invert(name)
    picture = MODELS[name].latent()["samples"]
    free = first(sample(name, trajectory))["samples"]
    held = first(sample(name, trajectory, guidance=guidance(mode=mode, gradient=gradient)))[
        "samples"
    ]
    assert bool(torch.isfinite(held).all())
    assert relative(held, free) > 1e-6
    if MODELS[name].family == "flow":
        assert relative(held, picture) < relative(free, picture)


@host_surface
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_stays_finite_and_close(invert, sample, guidance, name, dtype):
    method = guidance(gradient="full", loss="l2")  # of l1 rounding changes signs
    full, _ = invert(name)
    expected = first(sample(name, full, guidance=method))["samples"]
    model = MODELS[name].load(dtype)
    trajectory, _ = invert(name, model=model)
    got = first(sample(name, trajectory, guidance=method, model=model))["samples"]
    assert bool(torch.isfinite(got).all())
    assert relative(got, expected) < 0.05


@host_surface
@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_each_picture_alone(invert, sample, name):
    both, _ = invert(name, batch=2)
    one, _ = invert(name)
    assert relative(both.states[:, :1], one.states) < 1e-4
    got = first(sample(name, both))["samples"]
    assert relative(got[:1], first(sample(name, one))["samples"]) < 1e-3


@pytest.mark.parametrize("name", ["SD 2.x v", "SD 3", "Flux", "WAN", "LTX"])
def test_a_trajectory_file_gives_the_same_edit(library, invert, sample, tmp_path, name):
    files = importlib.import_module("nmg_pack.nmg_sampler.files.trajectory_file")
    trajectory, _ = invert(name)
    path = tmp_path / "kept.nmg.safetensors"
    files.save_trajectory(trajectory, path)
    again = files.load_trajectory(path)
    assert again.schedule == trajectory.schedule
    edits = [first(sample(name, one))["samples"] for one in (trajectory, again)]
    assert torch.equal(*edits)


@pytest.mark.parametrize("name", [*NETWORKS, "SD 2.x v", "SDXL v"])
def test_the_other_methods_run_on_it(nodes, invert, sample, loaded, name):
    small = MODELS[name]
    trajectory, _ = invert(name, 3)
    made = nodes["NMGNullText"].execute(
        loaded(name), trajectory, small.prompt(3), text_scale=4.0, inner_steps=2, learning_rate=0.01
    )
    null_text, optimised = made.args[:2]
    methods = [
        (null_text, optimised),
        (first(nodes["NMGNegativePrompt"].execute(0.0)), trajectory),
        (first(nodes["NMGProximal"].execute("soft", 0.7)), trajectory),
    ]
    for method, along in methods:
        edit = first(sample(name, along, guidance=method))["samples"]
        assert bool(torch.isfinite(edit).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mask_of_the_picture_is_fitted(invert, sample, guidance, name):
    trajectory, _ = invert(name)
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    plain, masked = (
        first(sample(name, trajectory, guidance=guidance(), mask=m))["samples"]
        for m in (None, mask)
    )
    assert plain.shape == masked.shape
    assert relative(masked, plain) > 1e-6


@pytest.mark.parametrize("name", VIDEOS)
def test_masks_of_a_video_are_its_frames(nodes, invert, sample, name):
    """Put back outside the mask: the first half of the frames, by a mask for each of them."""
    trajectory, _ = invert(name)
    method = first(nodes["NMGNegativePrompt"].execute(0.0))
    frames = MODELS[name].shape[1]
    mask = torch.zeros(frames, 32, 32)
    mask[frames // 2 :] = 1
    edit = first(sample(name, trajectory, guidance=method, mask=mask))["samples"]
    picture = MODELS[name].latent()["samples"]
    kept = slice(0, frames // 2)
    assert relative(edit[:, :, kept], picture[:, :, kept]) < 1e-5
    assert relative(edit[:, :, -1], picture[:, :, -1]) > 1e-3


@host_surface
@pytest.mark.parametrize("name", NETWORKS)
def test_outside_a_noise_mask_the_latent_is_the_picture(nodes, loaded, sample, name):
    small = MODELS[name]
    latent = small.latent()
    mask = torch.zeros(1, 1, *small.shape[-2:])
    mask[..., : small.shape[-1] // 2] = 1
    wires = loaded(name), small.prompt(1), {**latent, "noise_mask": mask}
    trajectory, _ = nodes["NMGInvert"].execute(*wires, steps=STEPS, schedule="simple").args
    edit = first(sample(name, trajectory))["samples"]
    outside = small.shape[-1] // 2
    assert relative(edit[..., outside:], latent["samples"][..., outside:]) < 1e-5
    assert relative(edit[..., :outside], latent["samples"][..., :outside]) > 1e-3


@host_surface
@pytest.mark.parametrize("name", ["SD 3", "Flux", "WAN"])
def test_guider_and_sampler_are_nmg_sample(nodes, invert, sample, loaded, name):
    small = MODELS[name]
    trajectory, latent = invert(name)
    wires = loaded(name), trajectory, small.prompt(2), small.prompt(3)
    guider = first(nodes["NMGGuider"].execute(*wires, **HELD))
    sampler, sigmas = nodes["NMGSampler"].execute(trajectory).args
    samples = latent["samples"]
    got = guider.sample(torch.zeros_like(samples), samples, sampler, sigmas)
    expected = nodes["NMGSample"].execute(*wires, **HELD)
    assert torch.equal(got.cpu(), first(expected)["samples"])


@host_surface
def test_another_sampler_cannot_go_on_from_pure_noise(library, nodes, invert, loaded):
    small = MODELS["Flux"]
    trajectory, latent = invert("Flux", schedule="simple")
    wires = loaded("Flux"), trajectory, small.prompt(2), small.prompt(3)
    guider = first(nodes["NMGGuider"].execute(*wires, **HELD))
    _, sigmas = nodes["NMGSampler"].execute(trajectory).args
    euler = importlib.import_module("comfy.samplers").sampler_object("euler")
    samples = latent["samples"]
    with pytest.raises(library.InvalidInput, match=r"pure noise.*schedule 'simple'"):
        guider.sample(torch.zeros_like(samples), samples, euler, sigmas)


@host_surface
def test_another_sampler_goes_on_from_below_it(nodes, invert, sample, loaded):
    small = MODELS["Flux"]
    trajectory, latent = invert("Flux", schedule="official-masactrl")
    wires = loaded("Flux"), trajectory, small.prompt(2), small.prompt(3)
    guider = first(nodes["NMGGuider"].execute(*wires, **HELD))
    _, sigmas = nodes["NMGSampler"].execute(trajectory).args
    euler = importlib.import_module("comfy.samplers").sampler_object("euler")
    samples = latent["samples"]
    got = guider.sample(torch.zeros_like(samples), samples, euler, sigmas)
    expected = first(nodes["NMGSample"].execute(*wires, **HELD))
    inner = loaded("Flux").model.process_latent_in
    # The host divides what is left at the lowest level by 1 - sigma.
    scale = 1 - float(sigmas[-1])
    assert relative(scale * inner(got.cpu()), inner(expected["samples"])) < 1e-4


@host_surface
@pytest.mark.parametrize("name", FLOWS)
def test_what_a_flow_cannot_do_is_refused_by_name(library, nodes, invert, loaded, name):
    small = MODELS[name]
    with pytest.raises(library.InvalidInput, match=rf"'official' with a flow.*{small.host_class}"):
        invert(name, schedule="official")
    with pytest.raises(library.InvalidInput, match="regularize.*velocity.*flow"):
        invert(name, regularize=3)
    prompts = small.prompt(1), small.prompt(3)
    with pytest.raises(library.InvalidInput, match="Edit-Friendly Inversion needs.*flow"):
        nodes["NMGEditFriendly"].execute(
            *(loaded(name), *prompts, small.latent()), schedule="simple", **DRAWN
        )


@pytest.mark.parametrize("name", FLOWS)
def test_an_editor_on_a_transformer_is_refused_by_name(library, nodes, invert, sample, name):
    trajectory, _ = invert(name)
    editor = first(nodes["NMGMasaCtrl"].execute(1, 0))
    with pytest.raises(library.InvalidInput, match=r"editor.*Got \w*(MMDIT|Flux|Wan|LTXV)\w*;"):
        sample(name, trajectory, editor=editor)


@pytest.mark.parametrize("name", VIDEOS)
def test_the_edit_region_of_a_video_is_refused_by_name(library, nodes, invert, loaded, name):
    trajectory, _ = invert(name)
    with pytest.raises(library.InvalidInput, match=rf"video.*{MODELS[name].host_class}"):
        nodes["NMGEditRegion"].execute(
            loaded(name), trajectory, MODELS[name].prompt(2), threshold=0.0, grow=0
        )


@pytest.mark.parametrize("name", [name for name in EVERY if name not in VIDEOS])
def test_the_edit_region_is_where_the_prompts_differ(nodes, invert, loaded, name):
    trajectory, _ = invert(name)
    wires = loaded(name), trajectory, MODELS[name].prompt(2)
    mask = first(nodes["NMGEditRegion"].execute(*wires, threshold=0.0, grow=0))
    assert 0 < float(mask.mean()) <= 1
    assert float(mask.max()) == 1


def test_sigmas_above_pure_noise_are_refused_for_a_flow(library, invert):
    with pytest.raises(library.InvalidInput, match=r"above that of pure noise. Got 1\.5"):
        invert("Flux", sigmas=torch.tensor([1.5, 0.5, 0.0]))


def test_a_trajectory_of_another_family_is_refused(library, invert, sample, loaded):
    trajectory, _ = invert("SD 3")
    with pytest.raises(library.TrajectoryMismatch, match="'SD3', model 'Flux'"):
        sample("Flux", trajectory)


@pytest.mark.parametrize("name", UNETS)
def test_edit_friendly_inversion_brings_the_picture_back(nodes, loaded, sample, name):
    small = MODELS[name]
    wires = loaded(name), small.prompt(1), small.prompt(3), small.latent()
    drawn = nodes["NMGEditFriendly"].execute(*wires, schedule="official-masactrl", **DRAWN)
    method, trajectory = drawn.args
    back, edit = (
        first(sample(name, trajectory, prompt=prompt, guidance=method))["samples"]
        for prompt in (1, 2)
    )
    # The last step draws no noise: of the lowest level's something is missing.
    unit = loaded(name).model.process_latent_in
    picture, lowest = unit(small.latent()["samples"]), trajectory.schedule.levels[0]
    assert relative(unit(back), picture) < 2 * lowest.sigma / float(picture.std())
    assert relative(edit, back) > 1e-3


@pytest.mark.parametrize("name", UNETS)
def test_regularisation_brings_the_noisiest_state_nearer_to_white_noise(invert, name):
    module = importlib.import_module("nmg_pack.nmg_sampler.methods.regularization")
    # As loud as a trained model is: noise of variance 1.
    model = replace(MODELS[name], loudness=1.0).load()
    plain, whiter = (invert(name, model=model, regularize=count)[0].states[-1] for count in (0, 5))
    assert float(module.kl_divergence(whiter)) < float(module.kl_divergence(plain))


EDITORS = {
    "NMGPromptToPrompt": {
        "source_prompt": "a cat on a table",
        "target_prompt": "a tiger on a table",
        "mode": "auto",
        "cross_replace": 0.8,
        "self_replace": 0.5,
        "blend_words": "table",
        "reweight": "",
    },
    "NMGMasaCtrl": {"start_step": 0, "start_layer": 0},
    "NMGPix2PixZero": {"attention_scale": 0.1},
}


# Every editor on every kind of network; what a network predicts is no matter of its attention, so
# of those with v prediction one editor each, one of them with a gradient.
EDITED = [
    *((name, editor) for name in ("SD 1.x", "SDXL") for editor in EDITORS),
    ("SD 2.x", "NMGMasaCtrl"),
    ("SD 2.x v", "NMGPix2PixZero"),
    ("SDXL v", "NMGPromptToPrompt"),
]


@pytest.mark.parametrize(("name", "editor"), EDITED)
def test_an_editor_holds_the_source_and_changes_the_edit(nodes, invert, sample, name, editor):
    small, settings = MODELS[name], EDITORS[editor]
    if editor == "NMGPromptToPrompt":
        clip = tokenizer_alone(*TOKENIZERS[name.removesuffix(" v")])
        settings = {"clip": clip, **settings}
    acting = first(nodes[editor].execute(**settings))
    trajectory, _ = invert(name, tokens=77)
    source, target = (small.prompt(seed, 77) for seed in (1, 2))
    free, own = (
        first(sample(name, trajectory, prompt=prompt))["samples"] for prompt in (target, source)
    )
    edit, beside = (
        latent["samples"] for latent in sample(name, trajectory, prompt=target, editor=acting).args
    )
    assert relative(beside, own) < 1e-4
    assert relative(edit, free) > 1e-3


@host_surface
@pytest.mark.parametrize("name", UNETS)
def test_prompt_to_prompt_with_equal_prompts_is_the_source(nodes, invert, sample, name):
    clip = tokenizer_alone(*TOKENIZERS[name.removesuffix(" v")])
    settings = EDITORS["NMGPromptToPrompt"]
    unchanged = {"clip": clip, "source_prompt": settings["target_prompt"]}
    editor = first(nodes["NMGPromptToPrompt"].execute(**{**settings, **unchanged}))
    trajectory, _ = invert(name, tokens=77)
    prompt = MODELS[name].prompt(1, 77)
    edit, source = sample(name, trajectory, prompt=prompt, editor=editor).args
    assert torch.equal(edit["samples"], source["samples"])
