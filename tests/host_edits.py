"""Inversions and edits through the nodes, and the host's own sampler as the judge of them."""

import importlib

import torch
from host_models import first, random_latent, random_prompt
from host_nodes import guidance as noise_map_guidance

SHAPE = (1, 4, 8, 8)
STEPS = 3
# Float32 rounding of a whole run: it grows from step to step.
RUN = 1e-4


def invert(nodes, model, latent=None, steps=STEPS, schedule="ddim_uniform", prompt=None):
    latent = random_latent(SHAPE) if latent is None else latent
    prompt = random_prompt(1) if prompt is None else prompt
    return nodes["NMGInvert"].execute(model, prompt, latent, steps=steps, schedule=schedule)


def guidance(nodes, mode="official", gradient="full", loss="l2", scale=1.0, **options):
    """l2: its energy has no sign in it, so rounding cannot flip an element."""
    scales = {"noise_map_scale": scale, "gradient_scale": 200.0}
    kind = {"mode": mode, "gradient": gradient, "loss": loss}
    return noise_map_guidance(nodes, **kind, **scales, **options)


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


def euler(model, latent, trajectory, cfg, positive=None, negative=None, sampler="euler"):
    """What the host's own sampler makes of the half-done latent on the same levels.

    Args:
        sampler: one of the host's names, or a sampler.
    """
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
        samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler,
        sigmas,
        model.model_options,
        latent_image=samples,
        disable_pbar=True,
        seed=0,
    )
