"""The noise mask of a latent as the host's own samplers take it, whatever a model does with it."""

import importlib
from dataclasses import replace

import pytest
import torch
from family_models import MODELS, SEEING_MORE
from host_edits import euler
from host_models import conditioning, first, random_latent, random_prompt, random_tensor, relative
from host_nodes import PLAIN

pytestmark = pytest.mark.host_surface

ALL = {**MODELS, **SEEING_MORE}
STEPS = 4
RUN = 1e-4  # float32 rounding of a whole run
# Models of image to video, which are shown their first frames clean.
STARTING_FROM_FRAMES = ["LTX", "WAN 2.2 5B"]


@pytest.fixture(scope="module")
def loaded(pack):
    """The models by name, each loaded once."""
    known = {}

    def get(name):
        if name not in known:
            with torch.inference_mode():
                known[name] = ALL[name].load()
        return known[name]

    return get


@pytest.fixture(scope="module")
def samplers(pack):
    return importlib.import_module("comfy.samplers")


def first_frame_kept(name):
    """A noise mask, (1, 1, T, H, W), that is 0 in the first frame."""
    *_, frames, height, width = ALL[name].shape
    mask = torch.ones(1, 1, frames, height, width)
    mask[:, :, 0] = 0
    return mask


def host_run(samplers, model, sampler, noise, picture, sigmas, mask, cfg, prompts):
    """What the host's own path makes of a sampler."""
    return samplers.sample(
        model,
        noise,
        *prompts,
        cfg,
        model.load_device,
        sampler,
        sigmas,
        model.model_options,
        latent_image=picture,
        denoise_mask=mask,
        disable_pbar=True,
        seed=0,
    )


def noise_below(state, picture, sigma):
    """The noise under which the host's samplers start from a state of a flow."""
    return (state - (1 - sigma) * picture) / sigma


@pytest.mark.parametrize("name", STARTING_FROM_FRAMES)
def test_the_way_down_around_clean_frames_is_that_of_the_hosts_sampler(
    nodes, samplers, loaded, name
):
    small, model, mask = ALL[name], loaded(name), first_frame_kept(name)
    latent = {**small.latent(), "noise_mask": mask}
    invert = nodes["NMGInvert"].execute
    trajectory = first(
        invert(model, small.prompt(1), latent, steps=STEPS, schedule="official-masactrl")
    )
    prompts = small.prompt(2), small.prompt(3)
    got = first(nodes["NMGSample"].execute(model, trajectory, *prompts, text_scale=4.0, **PLAIN))[
        "samples"
    ]
    sigmas = torch.tensor([each.k_sigma for each in reversed(trajectory.schedule.levels)])
    inner = model.model.process_latent_in
    noise = noise_below(trajectory.states[-1], inner(latent["samples"]), sigmas[0])

    def run(mask):
        sampler = samplers.sampler_object("euler")
        given = noise, latent["samples"], sigmas, mask, 4.0, prompts
        return host_run(samplers, model, sampler, *given)

    # Both end at the lowest level, where there is a little noise left: the host scales that too.
    lowest = 1 - trajectory.schedule.levels[0].sigma
    changing = mask.expand_as(got) == 1
    assert relative(inner(got)[changing], (lowest * inner(run(mask)))[changing]) < RUN
    assert relative(got[~changing], latent["samples"][~changing]) < 1e-6
    assert relative(run(mask)[changing], run(None)[changing]) > 10 * RUN


@pytest.mark.parametrize("name", STARTING_FROM_FRAMES)
def test_the_way_up_around_clean_frames_asks_as_the_hosts_sampler_does(
    nodes, samplers, loaded, name
):
    small, model, mask = ALL[name], loaded(name), first_frame_kept(name)
    latent = {**small.latent(), "noise_mask": mask}
    invert = nodes["NMGInvert"].execute
    trajectory = first(invert(model, small.prompt(1), latent, steps=STEPS, schedule="simple"))
    levels = [each.k_sigma for each in trajectory.schedule.levels]
    asked = [each.k_sigma for each in trajectory.schedule.query_levels]
    states = []

    def climb(model, x, sigmas, extra_args, callback, disable):
        for index, sigma in enumerate(asked):
            states.append(x)
            denoised = model(x, torch.full((len(x),), sigma), **extra_args)
            x = x + (levels[index + 1] - levels[index]) * (x - denoised) / sigma
        states.append(x)
        return x

    picture = latent["samples"]
    prompts = small.prompt(1), small.prompt(3)
    noise = torch.zeros_like(picture)
    sampler = samplers.KSAMPLER(climb)
    host_run(samplers, model, sampler, noise, picture, torch.tensor(levels), mask, 1, prompts)
    expected, changing = torch.stack(states), mask.expand_as(picture) == 1
    for got, judge in zip(trajectory.states, expected, strict=True):
        assert relative(got[changing], judge[changing]) < RUN
    unmasked = first(invert(model, small.prompt(1), small.latent(), steps=STEPS, schedule="simple"))
    assert relative(unmasked.states[-1][changing], expected[-1][changing]) > 10 * RUN


# --- Masks that change with sigma -----------------------------------------------------------------


def differential_diffusion(host, model, strength=1.0):
    node = host("comfy_extras.nodes_differential_diffusion").DifferentialDiffusion
    return first(node.execute(model, strength))


def shrinking(model):
    """A mask of another pack, smaller from step to step."""
    patched = model.clone()

    def smaller(sigma, denoise_mask, extra_options):
        levels = extra_options["sigmas"]
        share = float((levels >= sigma[0]).sum()) / len(levels)
        return (denoise_mask > share).to(denoise_mask)

    patched.set_model_denoise_mask_function(smaller)
    return patched


PATCHES = {
    "Differential Diffusion": differential_diffusion,
    "half of it": lambda host, model: differential_diffusion(host, model, 0.5),
    "a shrinking mask": lambda host, model: shrinking(model),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_a_mask_that_changes_with_sigma_acts_as_in_the_hosts_sampler(
    nodes, library, samplers, host, calm, patch
):
    """On a trajectory of one noise at every level, as the host's sampler puts it outside a mask."""
    shape = 1, 4, 8, 8
    latent = random_latent(shape)
    mask = torch.linspace(0, 1, 8).expand(1, 1, 8, 8).contiguous()
    prompts = random_prompt(2), random_prompt(3)
    made = first(
        nodes["NMGInvert"].execute(
            calm, random_prompt(1), latent, steps=STEPS, schedule="ddim_uniform"
        )
    )
    noise = random_tensor(shape, 5)
    states = torch.stack(
        [level.alpha * made.states[0] + level.sigma * noise for level in made.schedule.levels]
    )
    trajectory = replace(made, states=states, noise_mask=mask)
    model = PATCHES[patch](host, calm)
    got = first(nodes["NMGSample"].execute(model, trajectory, *prompts, text_scale=4.0, **PLAIN))
    sigmas = torch.tensor([each.k_sigma for each in reversed(trajectory.schedule.levels)])

    def run(model, mask):
        sampler = samplers.sampler_object("euler")
        given = noise, latent["samples"], sigmas, mask, 4.0, prompts
        return host_run(samplers, model, sampler, *given)

    expected = run(model, mask)
    assert relative(got["samples"], expected) < RUN
    assert relative(run(calm, mask), expected) > 100 * RUN


# --- What the host draws for a prompt -------------------------------------------------------------


@pytest.mark.parametrize("name", ["SD unCLIP", "SDXL"])
def test_a_picture_as_a_prompt_acts_as_in_the_hosts_sampler(nodes, loaded, name):
    small, model = ALL[name], loaded(name)
    width = 1024 if name == "SD unCLIP" else 1280
    seen = importlib.import_module("types").SimpleNamespace(
        image_embeds=random_tensor((1, width), 4)
    )
    picture = {"clip_vision_output": seen, "strength": 0.8, "noise_augmentation": 0.4}
    positive, negative = small.prompt(2), small.prompt(3)
    ((tokens, options),) = positive
    pictured = conditioning(tokens, **options, unclip_conditioning=[picture])
    trajectory, latent = (
        nodes["NMGInvert"]
        .execute(model, pictured, small.latent(), steps=STEPS, schedule="ddim_uniform")
        .result
    )
    got = first(
        nodes["NMGSample"].execute(model, trajectory, pictured, negative, text_scale=4.0, **PLAIN)
    )
    expected = euler(model, latent, trajectory, 4.0, pictured, negative)
    assert relative(got["samples"], expected) < RUN
    assert relative(euler(model, latent, trajectory, 4.0, positive, negative), expected) > RUN
