"""Noise Map Guidance on the toys: methods, trajectories, and the term of a step from outside."""

import pytest
from toys import IDENTITY, SmoothNoise, geometric_sigmas, noise, training_levels

from nmg_sampler import (
    Branches,
    Gradient,
    Loss,
    Mode,
    NoiseMapGuidance,
    Prompt,
    Reference,
    Request,
    Trajectory,
    invert,
    official_schedule,
    schedule_from_sigmas,
)
from nmg_sampler.contract import Run
from nmg_sampler.methods import REFERENCE_ELEMENTS
from nmg_sampler.trajectory import ddim_step, step_factors

SHAPE = (2, 3, 4, 4)
ELEMENTS = 48  # of one sample
SCHEDULE = schedule_from_sigmas("x", geometric_sigmas(8))
OFFICIAL_SCHEDULE = official_schedule(training_levels(), 8)
TEXT_SCALE = 3.0

# Float64 rounding of one step.
EXACT = {"rtol": 0, "atol": 1e-12}

modes = pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)
gradients = pytest.mark.parametrize("gradient", Gradient, ids=lambda gradient: gradient.value)
losses = pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)
references = pytest.mark.parametrize("reference", Reference, ids=lambda choice: choice.value)


def method(strength=0.5, mode=Mode.FUSED, gradient=Gradient.DIRECT, loss=Loss.L1, **choices):
    """NMG with `strength` per element of the energy's sum."""
    return NoiseMapGuidance(1.0, strength * REFERENCE_ELEMENTS, mode, gradient, loss, **choices)


def make(schedule=SCHEDULE, shape=SHAPE):
    """The trajectory of a Gaussian latent under the smooth toy."""
    states = invert(noise(*shape), schedule, SmoothNoise())
    return Trajectory(states, schedule, IDENTITY)


def begin(guidance, trajectory, predictor=None, mask=None, text_scale=TEXT_SCALE):
    """The method at work, and the steps of its run."""
    steps = trajectory.schedule.descent()
    predictor = predictor or SmoothNoise()
    return guidance.begin(
        Run(predictor, trajectory, len(steps), text_scale, Branches(trajectory.shape[0]), mask)
    ), steps


def term_of(guidance, trajectory, x, index=3, predictor=None, mask=None):
    """What the method adds to the prediction in step `index` at state `x`, seen from outside."""
    predictor = predictor or SmoothNoise()
    run, steps = begin(guidance, trajectory, predictor, mask)
    step = steps[index]
    prepared = run.prepare(x, step)
    if guidance.mode is Mode.OFFICIAL:
        scale, shift = step_factors(step.level, step.level_to)
        null = predictor.noise_of(x, step.level, Prompt.NEGATIVE)
        return (prepared.x - scale * x) / shift - null
    guided = predictor.guided(Request(x, step.level, TEXT_SCALE, negative=prepared.negative))
    return run.correct(x, step, guided) - guided.eps


def null_step(x, step, predictor):
    """The unconditional step written out."""
    eps = predictor.noise_of(x, step.level, Prompt.NEGATIVE)
    return ddim_step(x, eps, step.level, step.level_to)
