"""Noise Map Guidance: the formulas of arXiv 2402.04625, written out, and its gradient pass."""

import math

import pytest
import torch
from noise_maps import (
    ELEMENTS,
    EXACT,
    OFFICIAL_SCHEDULE,
    SCHEDULE,
    SHAPE,
    TEXT_SCALE,
    begin,
    gradients,
    losses,
    make,
    method,
    modes,
    null_step,
    references,
    term_of,
)
from toys import LinearNoise, SmoothNoise, noise
from toys import edit_of as sample

from nmg_sampler import (
    Gradient,
    Loss,
    Mode,
    NoiseMapGuidance,
    PlainGuidance,
    Prompt,
    Reference,
    Request,
    energy,
    fused_guidance,
    official_guidance,
)
from nmg_sampler.trajectory import ddim_step, level_from_k_sigma


@modes
@references
@losses
@gradients
def test_the_term_is_the_papers_equation(mode, reference, loss, gradient):
    trajectory, predictor, strength = make(), SmoothNoise(), 0.7
    guidance = method(strength, mode, gradient, loss, reference=reference)
    step = trajectory.schedule.descent()[3]
    x = trajectory.states[step.entry] + 0.2 * noise(*SHAPE, seed=5)
    entry = {Reference.CURRENT: step.entry, Reference.REACHED: step.entry_to}[reference]
    leaf = x.clone().requires_grad_()
    eps = predictor.noise_of(leaf, step.level, Prompt.NEGATIVE)
    if gradient is Gradient.DIRECT:
        eps = eps.detach()
    reached = ddim_step(leaf, eps, step.level, step.level_to)
    (slope,) = torch.autograd.grad(energy(reached, trajectory.states[entry], loss).sum(), leaf)
    torch.testing.assert_close(
        term_of(guidance, trajectory, x), strength * step.level.sigma * slope, **EXACT
    )


def test_the_full_gradient_of_a_linear_network_is_its_transpose_by_hand():
    matrix = 0.2 * noise(ELEMENTS, ELEMENTS, seed=7)
    predictor = LinearNoise(matrix, shifts=(0.1, 0.2, 0.3))
    trajectory, strength = make(), 0.7
    step = trajectory.schedule.descent()[3]
    x = trajectory.states[step.entry] + 0.2 * noise(*SHAPE, seed=5)
    residual = null_step(x, step, predictor) - trajectory.states[step.entry_to]
    scale = step.level_to.alpha / step.level.alpha
    shift = step.level_to.sigma - scale * step.level.sigma
    signs = residual.sign().flatten(1)
    by_hand = (scale * signs + shift * signs @ matrix).reshape(SHAPE)
    guidance = method(strength, gradient=Gradient.FULL)
    torch.testing.assert_close(
        term_of(guidance, trajectory, x, predictor=predictor),
        strength * step.level.sigma * by_hand,
        **EXACT,
    )


@references
def test_the_full_gradient_of_l2_agrees_with_finite_differences(reference):
    trajectory, predictor, strength = make(shape=(1, 3, 2, 2)), SmoothNoise(), 0.7
    step = trajectory.schedule.descent()[3]
    entry = {Reference.CURRENT: step.entry, Reference.REACHED: step.entry_to}[reference]
    x = trajectory.states[step.entry] + 0.2 * noise(1, 3, 2, 2, seed=5)

    def value(state):
        reached = null_step(state, step, predictor)
        return energy(reached, trajectory.states[entry], Loss.L2).item()

    differences, h = torch.empty_like(x), 1e-5
    for k in range(x.numel()):
        nudge = torch.zeros_like(x)
        nudge.view(-1)[k] = h
        differences.view(-1)[k] = (value(x + nudge) - value(x - nudge)) / (2 * h)
    guidance = method(strength, gradient=Gradient.FULL, loss=Loss.L2, reference=reference)
    term = term_of(guidance, trajectory, x, predictor=predictor)
    # Central differences: h^2 of truncation and 1e-16 / h of rounding, both near 1e-10.
    torch.testing.assert_close(
        term, strength * step.level.sigma * differences, rtol=1e-7, atol=1e-8
    )


def test_the_full_gradient_is_another_one_than_the_direct():
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    terms = [term_of(method(gradient=gradient), trajectory, x) for gradient in Gradient]
    assert (terms[0] - terms[1]).abs().max() > 0.01


def test_the_two_spaces_give_the_same_gradient_term():
    # Acceptance check "Common 3": S sqrt(1-abar) dz mean = S sigma / sqrt(1+sigma'^2) dx mean.
    predictor, trajectory = SmoothNoise(), make()
    step = trajectory.schedule.descent()[3]
    sigma, sigma_to = step.level.k_sigma, step.level_to.k_sigma
    target = trajectory.states[step.entry_to]
    z = (trajectory.states[step.entry] + 0.2 * noise(*SHAPE, seed=5)).requires_grad_()
    energy_z = (null_step(z, step, predictor) - target).abs().mean()
    term_z = step.level.sigma * torch.autograd.grad(energy_z, z)[0]
    x = (z.detach() * math.sqrt(1 + sigma**2)).requires_grad_()
    eps = predictor.noise_of(x / math.sqrt(1 + sigma**2), step.level, Prompt.NEGATIVE)
    energy_x = (x + (sigma_to - sigma) * eps - target * math.sqrt(1 + sigma_to**2)).abs().mean()
    term_x = sigma / math.sqrt(1 + sigma_to**2) * torch.autograd.grad(energy_x, x)[0]
    torch.testing.assert_close(term_x, term_z, **EXACT)


# The sigma-space recipe of the fact file, 2.9, written without the library.


def recipe(trajectory, predictor, guidance, text_scale, relabel=True):
    """The run in k-diffusion space, asking the network only as D(x, sigma)."""
    schedule, strength = trajectory.schedule, guidance.scale
    sigmas = [level.k_sigma for level in schedule.levels]

    def d(x, sigma, prompt):
        level = level_from_k_sigma(sigma)
        return x - sigma * predictor.noise_of(x / math.sqrt(1 + sigma**2), level, prompt)

    x = trajectory.states[-1] * math.sqrt(1 + sigmas[schedule.start] ** 2)
    for k in range(schedule.start, 0, -1):
        sigma, sigma_to = sigmas[k], sigmas[k - 1]
        entry = k if guidance.reference is Reference.CURRENT else k - 1
        x_r = trajectory.states[entry] * math.sqrt(1 + sigma_to**2)
        leaf = x.clone().requires_grad_()
        eps_null = (leaf - d(leaf, sigma, Prompt.NEGATIVE)) / sigma
        x_to = leaf + (sigma_to - sigma) * eps_null
        if guidance.gradient is Gradient.FULL:
            (g,) = torch.autograd.grad((x_to - x_r).abs().sum(), leaf)
        else:
            g = (x_to - x_r).sign().detach()
        offset = strength * sigma / math.sqrt(1 + sigma_to**2) * g
        eps_null = eps_null.detach()
        if guidance.mode is Mode.OFFICIAL:
            x = x + (sigma_to - sigma) * (eps_null + offset)
            if relabel:
                x = x * math.sqrt((1 + sigma**2) / (1 + sigma_to**2))
            offset = 0
        positive, negative = (d(x, sigma, p) for p in (Prompt.POSITIVE, Prompt.NEGATIVE))
        eps = (x - (negative + text_scale * (positive - negative))) / sigma
        x = x + (sigma_to - sigma) * (eps + offset)
    return x / math.sqrt(1 + sigmas[0] ** 2)


@modes
@references
@gradients
@pytest.mark.parametrize("schedule", [SCHEDULE, OFFICIAL_SCHEDULE], ids=["sigmas", "official"])
def test_the_run_equals_the_recipe_in_sigma_space(mode, reference, gradient, schedule):
    trajectory, predictor = make(schedule), SmoothNoise(0.3)
    guidance = method(0.3, mode, gradient, reference=reference)
    result = sample(trajectory, predictor, guidance, TEXT_SCALE)
    # Acceptance check "NMG 6": rounding of eight steps in another space.
    torch.testing.assert_close(
        result, recipe(trajectory, predictor, guidance, TEXT_SCALE), rtol=0, atol=1e-10
    )


@references
@gradients
def test_the_recipe_without_its_relabelling_is_another_run(reference, gradient):
    trajectory, predictor = make(), SmoothNoise(0.3)
    guidance = method(0.3, Mode.OFFICIAL, gradient, reference=reference)
    result = sample(trajectory, predictor, guidance, TEXT_SCALE)
    naive = recipe(trajectory, predictor, guidance, TEXT_SCALE, relabel=False)
    assert (result - naive).abs().max() > 0.1


@gradients
@pytest.mark.parametrize("text_scale", [1.0, 5.0], ids=str)
def test_official_with_a_scale_of_zero_is_a_null_step_and_a_text_step_per_level(
    gradient, text_scale
):
    trajectory, predictor = make(), SmoothNoise(0.5)
    x = trajectory.states[-1]
    for step in trajectory.schedule.descent():
        x = null_step(x, step, predictor)
        eps = predictor.guided(Request(x, step.level, text_scale)).eps
        x = ddim_step(x, eps, step.level, step.level_to)
    guidance = NoiseMapGuidance(0.0, 5000.0, Mode.OFFICIAL, gradient)
    result = sample(trajectory, predictor, guidance, text_scale)
    assert torch.equal(result, x)
    # Not plain DDIM: the quirk of the reference, fact file 2.4-2.
    plain = sample(trajectory, predictor, PlainGuidance(), text_scale)
    assert (result - plain).abs().max() > 0.1


def test_at_a_text_scale_of_one_the_fused_term_still_acts():
    trajectory, predictor = make(), SmoothNoise(0.5)
    step = trajectory.schedule.descent()[0]
    guidance = method(0.5)
    events = []
    sample(trajectory, predictor, guidance, 1.0, on_step=events.append)
    x = trajectory.states[-1]
    positive = predictor.noise_of(x, step.level, Prompt.POSITIVE)
    eps = positive + term_of(guidance, trajectory, x, index=0, predictor=predictor)
    torch.testing.assert_close(events[0].x, ddim_step(x, eps, step.level, step.level_to), **EXACT)


def test_sharing_the_unconditional_prediction_changes_nothing():
    # Fused direct takes it out of text guidance, or asks for it itself at scale 1: same number.
    trajectory, guidance = make(), method(0.5)
    x, step = trajectory.states[-1], trajectory.schedule.descent()[0]
    results = []
    for text_scale in (1.0, 1.0 + 1e-8):  # just beyond what counts as 1
        predictor = SmoothNoise(0.5)
        run, _ = begin(guidance, trajectory, predictor, text_scale=text_scale)
        prepared = run.prepare(x, step)
        guided = predictor.guided(Request(x, step.level, text_scale, negative=prepared.negative))
        results.append(run.correct(x, step, guided))
        assert predictor.rows == ([2, 2] if text_scale == 1 else [4])
    # The two text scales differ by 1e-8, and so may the results.
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


@modes
@pytest.mark.parametrize("host_mode", [torch.inference_mode, torch.no_grad])
def test_the_full_gradient_where_the_host_wants_none_is_the_same(mode, host_mode):
    guidance = method(0.5, mode, Gradient.FULL)
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    expected = term_of(guidance, trajectory, x)
    with host_mode():
        assert torch.equal(term_of(guidance, trajectory, x + 0), expected)


def test_the_official_method_is_that_of_the_publication():
    guidance = official_guidance(10.0, 5000.0)
    assert guidance.mode is Mode.OFFICIAL
    assert guidance.gradient is Gradient.FULL
    assert guidance.loss is Loss.L1
    assert guidance.reference is Reference.CURRENT


def test_the_fused_method_needs_no_backward_pass():
    guidance = fused_guidance(10.0, 5000.0)
    assert guidance.mode is Mode.FUSED
    assert guidance.gradient is Gradient.DIRECT
    assert guidance.reference is Reference.REACHED


def test_a_method_serves_many_runs_and_keeps_nothing_of_them():
    guidance, one, other = method(0.5, gradient=Gradient.FULL), make(), make(OFFICIAL_SCHEDULE)
    first = sample(one, SmoothNoise(0.5), guidance, 5.0)
    sample(other, SmoothNoise(0.5), guidance, 5.0)
    assert torch.equal(sample(one, SmoothNoise(0.5), guidance, 5.0), first)
