"""Noise Map Guidance: its scale, in batches and at every size; a scale of zero is nothing."""

import itertools
from dataclasses import replace

import pytest
import torch
from noise_maps import (
    EXACT,
    SCHEDULE,
    SHAPE,
    gradients,
    losses,
    make,
    method,
    modes,
    null_step,
    term_of,
)
from toys import IDENTITY, SmoothNoise, geometric_sigmas, noise
from toys import edit_of as sample

from nmg_sampler import (
    Loss,
    Mode,
    NoiseMapGuidance,
    PlainGuidance,
    Prompt,
    Trajectory,
    energy,
    fused_guidance,
    official_guidance,
    schedule_from_sigmas,
)
from nmg_sampler.methods import REFERENCE_ELEMENTS
from nmg_sampler.trajectory import ddim_step


@gradients
@pytest.mark.parametrize("scales", [(0.0, 5000.0), (10.0, 0.0)], ids=["s_N 0", "s_g 0"])
@pytest.mark.parametrize("text_scale", [1.0, 5.0], ids=str)
def test_fused_with_a_scale_of_zero_is_plain_ddim_bit_for_bit(gradient, scales, text_scale):
    trajectory, predictor = make(), SmoothNoise(0.5)
    guidance = NoiseMapGuidance(*scales, Mode.FUSED, gradient)
    plain = sample(trajectory, predictor, PlainGuidance(), text_scale)
    assert torch.equal(sample(trajectory, predictor, guidance, text_scale), plain)


@modes
@gradients
@pytest.mark.parametrize("factor", [3.7, 1e-3], ids=str)
def test_only_the_product_of_the_two_scales_matters(mode, gradient, factor):
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    one = NoiseMapGuidance(10.0, 500.0, mode, gradient)
    other = NoiseMapGuidance(10.0 / factor, 500.0 * factor, mode, gradient)
    torch.testing.assert_close(term_of(other, trajectory, x), term_of(one, trajectory, x), **EXACT)


@losses
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 4, 5, 3)], ids=str)
def test_the_scale_converts_to_that_of_the_references_mean(loss, shape):
    # The reference, fact file 2.3: S sqrt(1 - abar) d mean|z' - z*| / dz, mean over one sample.
    theirs, predictor, trajectory = 40.0, SmoothNoise(), make(shape=shape)
    step = trajectory.schedule.descent()[3]
    x = trajectory.states[step.entry] + 0.2 * noise(*shape, seed=5)
    leaf = x.clone().requires_grad_()
    reached = null_step(leaf, step, predictor)
    target = trajectory.states[step.entry]
    function = {
        Loss.L1: torch.nn.functional.l1_loss,
        Loss.L2: torch.nn.functional.mse_loss,
        Loss.SMOOTH_L1: lambda a, b: torch.nn.functional.smooth_l1_loss(a, b, beta=1e-4),
    }[loss]
    (gradient,) = torch.autograd.grad(function(reached, target), leaf)
    ours = theirs * REFERENCE_ELEMENTS / x[0].numel()
    guidance = replace(official_guidance(1.0, ours), loss=loss)
    torch.testing.assert_close(
        term_of(guidance, trajectory, x), theirs * step.level.sigma * gradient, **EXACT
    )


def test_the_default_scales_push_an_element_as_hard_as_the_reference_at_its_own_size():
    # 5000 x 10 on 4 x 64 x 64 elements: S / N = 3.05.
    assert fused_guidance(10.0, 5000.0).scale == pytest.approx(3.0518, rel=1e-4)


@modes
@gradients
@losses
def test_a_batch_of_two_gets_the_terms_of_two_singles(mode, gradient, loss):
    trajectory, guidance = make(), method(0.7, mode, gradient, loss)
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    singles = []
    for k in range(2):
        states = trajectory.states[:, k : k + 1]
        single = Trajectory(states, trajectory.schedule, IDENTITY)
        singles.append(term_of(guidance, single, x[k : k + 1]))
    # Vectorised tanh may round the last bit by position.
    torch.testing.assert_close(term_of(guidance, trajectory, x), torch.cat(singles), **EXACT)


@gradients
def test_doubling_the_batch_halves_a_mean_but_not_the_term(gradient):
    # Acceptance check "NMG 4".
    one = make(shape=(1, 3, 4, 4))
    two = Trajectory(one.states.repeat(1, 2, 1, 1, 1), one.schedule, IDENTITY)
    x = one.states[-4] + 0.2 * noise(1, 3, 4, 4, seed=5)
    guidance = method(0.7, Mode.OFFICIAL, gradient)
    term = term_of(guidance, one, x)
    torch.testing.assert_close(
        term_of(guidance, two, x.repeat(2, 1, 1, 1)), term.repeat(2, 1, 1, 1), **EXACT
    )
    means = []
    for batch in (x, x.repeat(2, 1, 1, 1)):
        leaf = batch.clone().requires_grad_()
        reached = null_step(leaf, one.schedule.descent()[3], SmoothNoise())
        (mean_gradient,) = torch.autograd.grad((reached - one.states[-5]).abs().mean(), leaf)
        means.append(mean_gradient[0])
    torch.testing.assert_close(means[1], 0.5 * means[0], **EXACT)


def test_the_push_of_an_element_is_the_same_at_every_latent_size():
    step = SCHEDULE.descent()[3]
    pushes = []
    for size in (2, 4, 8):
        trajectory = make(shape=(1, 3, size, size))
        x = trajectory.states[step.entry] + 0.2 * noise(1, 3, size, size, seed=5)
        term = term_of(method(0.7), trajectory, x)
        pushes.append(term.abs().unique(dim=None))
        torch.testing.assert_close(term.abs(), term.abs().max().expand_as(term), **EXACT)
    torch.testing.assert_close(pushes[0].mean(), pushes[-1].mean(), **EXACT)


@modes
@gradients
@pytest.mark.parametrize("index", [0, 3, 7])
def test_a_small_scale_brings_the_substep_nearer_and_the_opposite_sign_farther(
    mode, gradient, index
):
    # Acceptance check "NMG 3". A negative scale cannot be built, so its sub-step is by hand.
    trajectory, predictor = make(), SmoothNoise()
    step = trajectory.schedule.descent()[index]
    x = trajectory.states[step.entry] + 0.2 * noise(*SHAPE, seed=5)
    guidance = method(0.05, mode, gradient)
    term = term_of(guidance, trajectory, x, index)
    null = predictor.noise_of(x, step.level, Prompt.NEGATIVE)
    nearer, without, farther = (
        energy(
            ddim_step(x, null + sign * term, step.level, step.level_to),
            trajectory.states[step.entry_to],
            Loss.L1,
        )
        for sign in (1, 0, -1)
    )
    assert (nearer < without).all()
    assert (without < farther).all()


@modes
@gradients
def test_reconstruction_gets_better_with_every_moderate_scale(mode, gradient):
    # Acceptance check "NMG 7".
    schedule = schedule_from_sigmas("x", geometric_sigmas(24))
    trajectory = make(schedule, shape=(4, 3, 4, 4))
    strengths = [0.0, 0.4, 0.8, 1.6, 3.0, 6.0]
    errors = [
        (sample(trajectory, SmoothNoise(), method(s, mode, gradient), 7.5) - trajectory.states[0])
        .abs()
        .mean()
        .item()
        for s in strengths
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.5 * errors[0]
