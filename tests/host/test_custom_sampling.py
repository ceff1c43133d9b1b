"""NMG Sample in two halves in the host's SamplerCustomAdvanced, and the halves with others."""

import importlib
import re

import pytest
import torch
from host_models import (
    calm_network,
    first,
    parity_network,
    random_latent,
    random_prompt,
    random_tensor,
    relative,
    sdxl_network,
)
from host_nodes import choices

pytestmark = pytest.mark.host_surface

SHAPE = (1, 4, 8, 8)
STEPS = 4
RUN = 1e-4  # float32 rounding of a whole run
SCENE = 11
SOURCE = "a green triangle on a dotted black background"
TARGET = "a red triangle on a dotted black background"


@pytest.fixture(scope="module")
def custom(pack):
    """The host's own nodes of custom sampling."""
    return importlib.import_module("comfy_extras.nodes_custom_sampler")


@pytest.fixture(scope="module")
def coupled(library):
    """An editor by which everyone takes the source's attention."""

    class FromSource:
        def wants(self, layer):
            return True

        def __call__(self, call):
            return call.branches.repeat(call.plain()[call.branches.source_rows])

    class Coupled(library.Editor):
        def begin(self, run):
            editing = library.EditorRun(run)
            editing.attention = lambda step: FromSource()
            return editing

    return Coupled()


def invert(nodes, model, latent=None, schedule="official-masactrl", steps=STEPS):
    latent = random_latent(SHAPE) if latent is None else latent
    return (
        nodes["NMGInvert"]
        .execute(model, random_prompt(1), latent, steps=steps, schedule=schedule)
        .result
    )


@pytest.fixture
def trajectory(nodes, model):
    return invert(nodes, model)[0]


def settings(trajectory, **changed):
    """The inputs that NMG Sample and NMG Guider share, but for the model."""
    return {
        "trajectory": trajectory,
        "positive": random_prompt(2),
        "negative": random_prompt(3),
        "text_scale": 5.0,
        "noise_map_scale": 1.5,
        "gradient_scale": 5000.0,
        "mode": "fused",
        **changed,
    }


@pytest.fixture
def guide(nodes):
    """NMG Guider's output."""
    return lambda model, trajectory, **changed: first(
        nodes["NMGGuider"].execute(model, **settings(trajectory, **changed))
    )


@pytest.fixture
def halves(nodes):
    """NMG Sampler's outputs: the sampler and its SIGMAS."""
    return lambda trajectory: nodes["NMGSampler"].execute(trajectory).result


@pytest.fixture
def run(custom, halves):
    """(output, denoised_output) of the host's SamplerCustomAdvanced; whatever is not given fits."""

    def call(guider, trajectory, latent=None, sampler=None, sigmas=None, noise=None):
        ours, levels = halves(trajectory)
        if latent is None:
            latent = {"samples": guider.plan.picture}
        if isinstance(sampler, str):
            sampler = first(custom.KSamplerSelect.execute(sampler))
        return custom.SamplerCustomAdvanced.execute(
            first(custom.DisableNoise.execute()) if noise is None else noise,
            guider,
            ours if sampler is None else sampler,
            levels if sigmas is None else sigmas,
            latent,
        ).result

    return call


def sample(nodes, model, trajectory, **changed):
    """What NMG Sample makes with the same settings."""
    return first(nodes["NMGSample"].execute(model, **settings(trajectory, **changed)))["samples"]


@pytest.fixture
def make(nodes):
    """The first output of one of our nodes."""
    return lambda node, *given, **named: first(nodes[node].execute(*given, **named))


# A method of our nodes, for a trajectory and a model.
METHODS = {
    "fused": lambda make, t, m: None,
    "official": lambda make, t, m: make("NMGGuidance", **choices(mode="official", gradient="full")),
    "fused full l2": lambda make, t, m: make(
        "NMGGuidance", **choices(gradient="full", loss="l2", gradient_scale=200.0)
    ),
    "fused l2": lambda make, t, m: make("NMGGuidance", **choices(loss="l2", gradient_scale=200.0)),
    "plain": lambda make, t, m: make("NMGPlainGuidance"),
    "npi": lambda make, t, m: make("NMGNegativePrompt", 0.0),
    "proximal": lambda make, t, m: make("NMGProximal", "soft", 0.5),
    "proximal without pull": lambda make, t, m: make(
        "NMGProximal", "soft", 0.5, recon_strength=0.0
    ),
    "null text": lambda make, t, m: make(
        "NMGNullText", m, t, random_prompt(3), text_scale=5.0, inner_steps=2, learning_rate=0.01
    ),
}


# The two halves together.


@pytest.mark.parametrize("schedule", ["official-masactrl", "official"])
@pytest.mark.parametrize("method", METHODS)
def test_both_halves_are_nmg_sample_bit_for_bit(nodes, model, guide, make, run, method, schedule):
    trajectory, noisiest = invert(nodes, model, schedule=schedule)
    guidance = METHODS[method](make, trajectory, model)
    expected = sample(nodes, model, trajectory, guidance=guidance)
    guider = guide(model, trajectory, guidance=guidance)
    for latent in (None, noisiest):
        assert torch.equal(run(guider, trajectory, latent)[0]["samples"], expected)


def test_a_guider_that_the_host_keeps_gives_the_same_again(model, guide, run, trajectory):
    guider = guide(model, trajectory)
    once, twice = (run(guider, trajectory)[0]["samples"] for _ in range(2))
    assert torch.equal(once, twice)


def test_direct_inversion_with_an_editor_gives_the_edit_alone(
    nodes, model, guide, make, run, coupled, trajectory
):
    guidance = make("NMGDirectInversion", 1.0)
    changed = {"guidance": guidance, "editor": coupled, "text_scale": 3.0}
    output, clean = run(guide(model, trajectory, **changed), trajectory)
    assert torch.equal(output["samples"], sample(nodes, model, trajectory, **changed))
    assert clean["samples"].shape == output["samples"].shape == SHAPE


def test_edit_friendly_inversion(nodes, model, guide, run):
    latent = random_latent(SHAPE)
    guidance, trajectory = (
        nodes["NMGEditFriendly"]
        .execute(
            model,
            random_prompt(1),
            random_prompt(3),
            latent,
            steps=6,
            schedule="official-masactrl",
            source_scale=3.5,
            skip=2,
            seed=7,
        )
        .result
    )
    output = run(guide(model, trajectory, guidance=guidance), trajectory)[0]
    assert torch.equal(output["samples"], sample(nodes, model, trajectory, guidance=guidance))


def test_batches_several_targets_and_masks(nodes, model, guide, run, coupled):
    """Two pictures, two edits of each: every edit of the first prompt, then of the second."""
    shape = (2, 4, 9, 7)
    masks = (random_tensor((2, 1, 72, 56), seed).abs().clamp(0, 1) for seed in (8, 9))
    noise_mask, mask = masks
    latent = random_latent(shape, noise_mask=noise_mask)
    trajectory, noisiest = invert(nodes, model, latent)
    targets = [[torch.cat([random_prompt(seed)[0][0] for seed in (2, 4)]).repeat(2, 1, 1), {}]]
    for editor in (None, coupled):
        changed = {"positive": targets, "mask": mask[:, 0], "editor": editor}
        expected = sample(nodes, model, trajectory, **changed)
        assert len(expected) == 4
        guider = guide(model, trajectory, **changed)
        for given in (latent, noisiest, {"samples": noisiest["samples"]}):
            output, clean = run(guider, trajectory, given)
            assert torch.equal(output["samples"], expected)
            assert clean["samples"].shape == expected.shape


def test_a_noise_mask_on_the_latent_alone_keeps_the_picture(nodes, model, guide, run, trajectory):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    guider = guide(model, trajectory)
    picture = guider.plan.picture
    kept = run(guider, trajectory, {"samples": picture, "noise_mask": mask})[0]["samples"]
    assert relative(kept[..., :4], picture[..., :4]) < 1e-6  # there and back through the scale
    assert not torch.equal(kept[..., 4:], picture[..., 4:])
    assert torch.equal(run(guider, trajectory)[0]["samples"], sample(nodes, model, trajectory))


def test_sdxl(nodes, guide, run):
    model = sdxl_network()
    pooled = {"pooled_output": random_tensor((1, 1280), 5)}
    prompts = {
        name: random_prompt(seed, **pooled) for name, seed in (("positive", 2), ("negative", 3))
    }
    latent = random_latent(SHAPE)
    trajectory = first(
        nodes["NMGInvert"].execute(
            model, random_prompt(1, **pooled), latent, steps=STEPS, schedule="karras"
        )
    )
    output = run(guide(model, trajectory, **prompts), trajectory)[0]
    assert torch.equal(output["samples"], sample(nodes, model, trajectory, **prompts))


def test_prompt_to_prompt_on_the_demo_model(nodes, guide, make, run):
    host_nodes = importlib.import_module("nodes")
    model, clip, vae = nodes["NMGDemoModel"].execute().result
    source, target, empty = (
        host_nodes.CLIPTextEncode().encode(clip, text)[0] for text in (SOURCE, TARGET, "")
    )
    picture, caption = nodes["NMGDemoPicture"].execute(SCENE).result
    assert caption == SOURCE
    latent = {"samples": vae.encode(picture[..., :3])}
    trajectory = first(
        nodes["NMGInvert"].execute(model, source, latent, steps=6, schedule="official-masactrl")
    )
    editor = make(
        "NMGPromptToPrompt",
        clip=clip,
        source_prompt=SOURCE,
        target_prompt=TARGET,
        mode="auto",
        cross_replace=0.8,
        self_replace=0.5,
        blend_words="triangle",
        reweight="",
    )
    changed = {"positive": target, "negative": empty, "text_scale": 3.0, "editor": editor}
    output = run(guide(model, trajectory, **changed), trajectory, latent)[0]
    assert torch.equal(output["samples"], sample(nodes, model, trajectory, **changed))
    alone = sample(nodes, model, trajectory, **{**changed, "editor": None})
    assert relative(alone, output["samples"]) > 100 * RUN, "the editor did nothing"


def test_the_sigmas_are_the_levels_of_the_steps_as_the_host_orders_them(nodes, model, halves):
    for schedule, lowest in (("official-masactrl", 0.0292), ("official", 0.0292), ("simple", 0.0)):
        trajectory, _ = invert(nodes, model, schedule=schedule)
        sigmas = halves(trajectory)[1]
        assert sigmas.dtype == torch.float32
        assert len(sigmas) == len(trajectory.schedule.descent()) + 1
        assert bool((sigmas.diff() < 0).all())
        assert float(sigmas[-1]) == pytest.approx(lowest, abs=1e-4)


def test_the_progress_counts_the_steps_and_denoised_is_the_last_clean_prediction(
    model, guide, run, trajectory, monkeypatch
):
    seen = []
    utils = importlib.import_module("comfy.utils")
    monkeypatch.setattr(
        utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: seen.append((value, total))
    )
    output, clean = run(guide(model, trajectory), trajectory)
    # The host leaves out what comes too soon after another.
    assert seen[-1] == (STEPS, STEPS)
    assert seen[0] == (1, STEPS)
    # At the lowest level state and clean prediction differ by its noise.
    assert 0 < relative(clean["samples"], output["samples"]) < 0.1


# The guider with samplers of the host.


@pytest.mark.parametrize(
    "method", ["fused l2", "fused full l2", "plain", "npi", "proximal without pull", "null text"]
)
def test_euler_with_the_guider_is_nmg_sample(nodes, model, guide, make, run, method):
    """In the scale of the host's samplers a step of DDIM is one of Euler."""
    trajectory, noisiest = invert(nodes, model, schedule="ddim_uniform")
    guidance = METHODS[method](make, trajectory, model)
    expected = sample(nodes, model, trajectory, guidance=guidance)
    guider = guide(model, trajectory, guidance=guidance)
    got = run(guider, trajectory, noisiest, "euler")[0]["samples"]
    assert relative(got, expected) < RUN
    if method != "plain":
        plain = sample(nodes, model, trajectory, guidance=METHODS["plain"](make, trajectory, model))
        assert relative(expected, plain) > 100 * RUN, "the method did nothing"


def test_a_mask_and_several_targets_go_with_euler(nodes, model, guide, make, run):
    latent = random_latent((2, *SHAPE[1:]))
    trajectory, noisiest = invert(nodes, model, latent, "ddim_uniform")
    mask = random_tensor((2, 64, 64), 9).abs().clamp(0, 1)
    targets = [[torch.cat([random_prompt(seed)[0][0] for seed in (2, 4)]).repeat(2, 1, 1), {}]]
    guidance = METHODS["fused l2"](make, trajectory, model)
    changed = {"positive": targets, "mask": mask, "guidance": guidance}
    got = run(guide(model, trajectory, **changed), trajectory, noisiest, "euler")[0]["samples"]
    assert relative(got, sample(nodes, model, trajectory, **changed)) < RUN


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "lcm", "euler_cfg_pp"])
def test_another_sampler_is_held_as_well(nodes, guide, make, run, sampler):
    model = calm_network()
    trajectory, noisiest = invert(nodes, model, schedule="simple", steps=12)
    distances = []
    for scale in (0.0, 4.0):
        scales = {"noise_map_scale": scale, "gradient_scale": 200.0}
        hold = make("NMGGuidance", **choices(loss="l2", **scales))
        guider = guide(model, trajectory, guidance=hold)
        got = run(guider, trajectory, noisiest, sampler)[0]["samples"]
        distances.append(relative(got, guider.plan.picture))
    assert distances[1] < 0.8 * distances[0]


def test_a_run_in_two_parts_is_the_run_in_one(nodes, model, guide, run, custom, halves):
    trajectory, noisiest = invert(nodes, model, schedule="simple")
    sigmas = halves(trajectory)[1]
    high, low = custom.SplitSigmas.execute(sigmas, 2).result
    guider = guide(model, trajectory)
    whole = run(guider, trajectory, noisiest, "euler")[0]["samples"]
    half = run(guider, trajectory, noisiest, "euler", high)[0]
    parts = run(guider, trajectory, half, "euler", low)[0]["samples"]
    assert relative(parts, whole) < RUN


# What does not make a run.


def refused(library, *words):
    """An error of ours that holds all of these words."""
    return pytest.raises(library.InvalidInput, match=".*".join(map(re.escape, words)))


def test_the_sampler_refuses_a_guider_that_does_not_say_how_to_hold(
    model, custom, trajectory, run, library
):
    for guider in (
        first(custom.CFGGuider.execute(model, random_prompt(2), random_prompt(3), 5.0)),
        first(custom.BasicGuider.execute(model, random_prompt(2))),
    ):
        with refused(library, "NMG Sampler: guider", "Connect NMG Guider", "euler"):
            run(guider, trajectory, random_latent(SHAPE))


def wrong(name, trajectory, noisiest, custom, sigmas):
    """Arguments of a run in which one thing is wrong, and what is said of it."""
    other = {"samples": random_tensor(SHAPE, 9)}
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    return {
        "noise": (
            {"noise": first(custom.RandomNoise.execute(1))},
            ["noise would be of no use", "DisableNoise"],
        ),
        "latent": ({"latent": other}, ["latent_image is not of the trajectory's picture"]),
        "size": (
            {"latent": random_latent((1, 4, 8, 9))},
            ["latent_image is not of the trajectory's size", "(1, 4, 8, 9)", "(1, 4, 8, 8)"],
        ),
        "nested": (
            {"latent": {"samples": nested([noisiest["samples"]] * 2)}},
            ["latent_image is not of the trajectory's size", "a nested latent"],
        ),
        "sigmas": ({"sigmas": sigmas * 1.1}, ["sigmas are not those of the trajectory"]),
        "part": ({"sigmas": sigmas[:3]}, ["sigmas are not those", "unsplit"]),
        "flipped": ({"sigmas": sigmas.flip(0)}, ["sigmas are not those"]),
        "other sigmas": (
            {"sigmas": sigmas * 1.1, "sampler": "euler", "latent": noisiest},
            ["sigmas are not those of the trajectory", "NMG Sampler"],
        ),
        "between": (
            {"sampler": "dpm_2", "latent": noisiest},
            ["sampler asks for a prediction between the noise maps", "euler"],
        ),
        "noise mask": (
            {"sampler": "euler", "latent": {**noisiest, "noise_mask": torch.ones(1, 64, 64)}},
            ["noise mask", "only NMG Sampler"],
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    "noise latent size nested sigmas part flipped between noise_mask other_sigmas".split(),
)
def test_what_does_not_fit_is_named(nodes, model, guide, run, custom, halves, library, name):
    trajectory, noisiest = invert(nodes, model)
    inputs, words = wrong(
        name.replace("_", " "), trajectory, noisiest, custom, halves(trajectory)[1]
    )
    with refused(library, "NMG Guider: ", *words):
        run(guide(model, trajectory), trajectory, **inputs)


def test_halves_of_two_trajectories_are_refused(nodes, model, guide, run, halves, library):
    one, other = (invert(nodes, model)[0] for _ in range(2))
    sampler, sigmas = halves(other)
    with refused(library, "NMG Guider: trajectory is not that of NMG Sampler", "same output"):
        run(guide(model, one), one, sampler=sampler, sigmas=sigmas)


def test_what_only_our_sampler_does_is_refused_with_another(
    nodes, model, guide, make, run, coupled, library
):
    trajectory, noisiest = invert(nodes, model)
    for method in ("official", "proximal"):
        guider = guide(model, trajectory, guidance=METHODS[method](make, trajectory, model))
        with refused(library, "NMG Guider: guidance does more than correct", "fused"):
            run(guider, trajectory, noisiest, "euler")
    with refused(library, "NMG Guider: editor", "only NMG Sampler"):
        run(guide(model, trajectory, editor=coupled), trajectory, noisiest, "euler")
    trajectory, noisiest = invert(nodes, model, schedule="official")
    with refused(library, "NMG Guider: trajectory is entered below", "'official'"):
        run(guide(model, trajectory), trajectory, noisiest, "euler")


def test_the_guider_checks_its_inputs_when_it_is_made(model, guide, trajectory, library):
    with refused(library, "NMG Guider: positive is empty"):
        guide(model, trajectory, positive=[])
    other = parity_network("two", prediction="V_PREDICTION")
    with refused(library, "NMG Guider: trajectory was made with another model"):
        guide(other, trajectory)
