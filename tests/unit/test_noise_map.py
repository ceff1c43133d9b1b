"""Noise Map Guidance: the formulas of arXiv 2402.04625, its neutral elements and its scale."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from toys import (
    IDENTITY,
    DetachedNoise,
    LinearNoise,
    SmoothNoise,
    geometric_sigmas,
    noise,
    training_levels,
)
from toys import (
    edit_of as sample,
)

from nmg_sampler import (
    Branches,
    Gradient,
    InvalidInput,
    Loss,
    Mode,
    NoiseMapGuidance,
    NotDifferentiable,
    PlainGuidance,
    Prompt,
    Reference,
    Trajectory,
    energy,
    fused_guidance,
    invert,
    official_guidance,
    official_schedule,
    schedule_from_sigmas,
)
from nmg_sampler.contract import Run
from nmg_sampler.methods import REFERENCE_ELEMENTS
from nmg_sampler.trajectory import ddim_step, level_from_k_sigma, step_factors

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
    guided = predictor.guided(x, step.level, TEXT_SCALE, prepared.negative)
    return run.correct(x, step, guided) - guided.eps


def null_step(x, step, predictor):
    """The unconditional step written out."""
    eps = predictor.noise_of(x, step.level, Prompt.NEGATIVE)
    return ddim_step(x, eps, step.level, step.level_to)


# --- The formula ---------------------------------------------------------------------------------


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


# --- The sigma-space recipe of the fact file, 2.9, written without the library -------------------


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


# --- Neutral elements ----------------------------------------------------------------------------


@gradients
@pytest.mark.parametrize("scales", [(0.0, 5000.0), (10.0, 0.0)], ids=["s_N 0", "s_g 0"])
@pytest.mark.parametrize("text_scale", [1.0, 5.0], ids=str)
def test_fused_with_a_scale_of_zero_is_plain_ddim_bit_for_bit(gradient, scales, text_scale):
    trajectory, predictor = make(), SmoothNoise(0.5)
    guidance = NoiseMapGuidance(*scales, Mode.FUSED, gradient)
    plain = sample(trajectory, predictor, PlainGuidance(), text_scale)
    assert torch.equal(sample(trajectory, predictor, guidance, text_scale), plain)


@gradients
@pytest.mark.parametrize("text_scale", [1.0, 5.0], ids=str)
def test_official_with_a_scale_of_zero_is_a_null_step_and_a_text_step_per_level(
    gradient, text_scale
):
    trajectory, predictor = make(), SmoothNoise(0.5)
    x = trajectory.states[-1]
    for step in trajectory.schedule.descent():
        x = null_step(x, step, predictor)
        eps = predictor.guided(x, step.level, text_scale).eps
        x = ddim_step(x, eps, step.level, step.level_to)
    guidance = NoiseMapGuidance(0.0, 5000.0, Mode.OFFICIAL, gradient)
    result = sample(trajectory, predictor, guidance, text_scale)
    assert torch.equal(result, x)
    # Not plain DDIM: the quirk of the reference, fact file 2.4-2.
    plain = sample(trajectory, predictor, PlainGuidance(), text_scale)
    assert (result - plain).abs().max() > 0.1


@modes
@gradients
def test_outside_its_part_of_the_run_the_method_is_plain_text_guidance_bit_for_bit(mode, gradient):
    trajectory, events = make(), {}
    guidance = method(0.5, mode, gradient, start=0.25, end=0.5)
    for name, choice in (("plain", PlainGuidance()), ("windowed", guidance)):
        events[name] = []
        sample(trajectory, SmoothNoise(0.5), choice, 5.0, on_step=events[name].append)
    same = [torch.equal(one.x, other.x) for one, other in zip(*events.values(), strict=True)]
    # Of eight steps, 2 and 3 lie in the window; from there on the states differ.
    assert same == [True, True] + [False] * 6
    # After the window each step is the plain one from where the window left the state.
    x = events["windowed"][3].x
    for step in trajectory.schedule.descent()[4:]:
        eps = SmoothNoise(0.5).guided(x, step.level, 5.0).eps
        x = ddim_step(x, eps, step.level, step.level_to)
    assert torch.equal(events["windowed"][-1].x, x)


@modes
@gradients
def test_the_whole_run_as_a_window_is_no_window(mode, gradient):
    trajectory = make()
    whole, default = method(0.5, mode, gradient, start=0.0, end=1.0), method(0.5, mode, gradient)
    results = [sample(trajectory, SmoothNoise(0.5), g, 5.0) for g in (whole, default)]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("start", "end", "acting"),
    [(0.0, 0.125, [0]), (0.3, 0.7, [3, 4, 5]), (0.875, 1.0, [7]), (0.3, 0.31, [])],
    ids=str,
)
def test_the_window_takes_the_steps_that_begin_in_it(start, end, acting):
    trajectory = make()
    run, steps = begin(method(start=start, end=end), trajectory)
    assert [step.index for step in steps if run.acts(step)] == acting


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
        guided = predictor.guided(x, step.level, text_scale, prepared.negative)
        results.append(run.correct(x, step, guided))
        assert predictor.rows == ([2, 2] if text_scale == 1 else [4])
    # The two text scales differ by 1e-8, and so may the results.
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


# --- The scale -----------------------------------------------------------------------------------


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


def test_a_row_whose_weight_is_zero_is_untouched_by_the_other_rows_guidance():
    # Acceptance check "NMG 5": the target branch without an editor.
    trajectory, rows = make(), torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    for mode, gradient in itertools.product(Mode, Gradient):
        results = [
            sample(
                trajectory,
                SmoothNoise(0.5),
                method(strength, mode, gradient, inside=1.0, outside=0.0),
                5.0,
                mask=rows,
            )
            for strength in (0.0, 0.7)
        ]
        assert torch.equal(results[0][1], results[1][1])
        assert (results[0][0] - results[1][0]).abs().max() > 0.1


# --- The mask ------------------------------------------------------------------------------------


@modes
@gradients
def test_the_mask_weighs_the_term_inside_and_outside(mode, gradient):
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2, :] = 1
    mask[..., 3, :] = 0.5
    weighted = method(0.7, mode, gradient, inside=0.25, outside=3.0)
    factors = torch.tensor([0.25, 0.25, 3.0, 1.625], dtype=torch.float64).reshape(4, 1)
    torch.testing.assert_close(
        term_of(weighted, trajectory, x, mask=mask),
        factors * term_of(weighted, trajectory, x),
        **EXACT,
    )


@modes
@gradients
@pytest.mark.parametrize(("value", "factor"), [(1.0, 0.25), (0.0, 3.0)], ids=["ones", "zeros"])
def test_a_uniform_mask_is_the_scale_times_its_factor(mode, gradient, value, factor):
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    mask = torch.full((1, 1, 4, 4), value, dtype=torch.float64)
    weighted = method(0.7, mode, gradient, inside=0.25, outside=3.0)
    torch.testing.assert_close(
        term_of(weighted, trajectory, x, mask=mask),
        term_of(method(0.7 * factor, mode, gradient), trajectory, x),
        **EXACT,
    )


def test_a_mask_each_weighs_each_sample_by_its_own():
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    mask = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    weighted = method(0.7, inside=0.25, outside=3.0)
    factors = torch.tensor([3.0, 0.25], dtype=torch.float64).reshape(2, 1, 1, 1)
    torch.testing.assert_close(
        term_of(weighted, trajectory, x, mask=mask),
        factors * term_of(weighted, trajectory, x),
        **EXACT,
    )


def test_without_a_mask_the_two_factors_do_not_matter():
    trajectory = make()
    results = [
        sample(trajectory, SmoothNoise(0.5), method(0.5, inside=i, outside=o), 5.0)
        for i, o in ((0.5, 5.0), (0.0, 100.0))
    ]
    assert torch.equal(*results)


@modes
@gradients
def test_at_full_blend_the_states_outside_the_mask_are_the_recorded_ones(mode, gradient):
    trajectory, events = make(), []
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2, :] = 1
    guidance = method(0.5, mode, gradient, blend=1.0)
    sample(trajectory, SmoothNoise(0.5), guidance, 5.0, mask=mask, on_step=events.append)
    for event, step in zip(events, trajectory.schedule.descent(), strict=True):
        recorded = trajectory.states[step.entry_to]
        assert torch.equal(event.x[..., 2:, :], recorded[..., 2:, :])
        assert not torch.equal(event.x[..., :2, :], recorded[..., :2, :])


def test_a_share_of_blend_goes_that_far_to_the_recorded_state():
    trajectory = make()
    mask = torch.full((1, 1, 4, 4), 0.25, dtype=torch.float64)
    run, steps = begin(method(blend=0.5), trajectory, mask=mask)
    x, recorded = noise(*SHAPE, seed=5), trajectory.states[steps[3].entry_to]
    torch.testing.assert_close(run.settle(x, steps[3]), x + 0.375 * (recorded - x), **EXACT)


def test_blend_without_a_mask_changes_no_bit():
    trajectory = make()
    results = [
        sample(trajectory, SmoothNoise(0.5), method(0.5, blend=share), 5.0) for share in (0.0, 1.0)
    ]
    assert torch.equal(*results)


@modes
@gradients
@pytest.mark.parametrize("text_scale", [1.0, TEXT_SCALE], ids=str)
def test_a_mask_that_leaves_no_weight_costs_what_a_scale_of_zero_costs(mode, gradient, text_scale):
    trajectory, white = make(), torch.ones(1, 1, *SHAPE[2:], dtype=torch.float64)
    results, asked = [], []
    for strength in (0.0, 0.7):
        predictor = SmoothNoise(0.5)
        guidance = method(strength, mode, gradient, inside=0.0)
        results.append(sample(trajectory, predictor, guidance, text_scale, mask=white))
        asked.append((predictor.calls, predictor.backward_passes))
    assert asked[0] == asked[1]
    assert torch.equal(*results)


# --- Over the run --------------------------------------------------------------------------------


@modes
@gradients
def test_every_step_and_no_falloff_change_no_bit(mode, gradient):
    trajectory = make()
    neutral = method(0.5, mode, gradient, every=1, falloff=0.0)
    results = [
        sample(trajectory, SmoothNoise(0.5), g, 5.0) for g in (neutral, method(0.5, mode, gradient))
    ]
    assert torch.equal(*results)
    terms = [
        term_of(g, trajectory, noise(*SHAPE, seed=5)) for g in (neutral, replace(neutral, end=0.9))
    ]
    assert torch.equal(*terms)


@pytest.mark.parametrize(
    ("every", "acting"),
    [(1, list(range(8))), (2, [0, 2, 4, 6]), (3, [0, 3, 6]), (8, [0]), (100, [0])],
    ids=str,
)
def test_every_takes_the_steps_in_turn_from_the_first(every, acting):
    run, steps = begin(method(every=every), make())
    assert [step.index for step in steps if run.acts(step)] == acting


def test_every_counts_from_the_first_step_of_the_run_not_of_the_window():
    run, steps = begin(method(every=3, start=0.25, end=0.9), make())
    assert [step.index for step in steps if run.acts(step)] == [3, 6]


@modes
@gradients
def test_between_its_turns_the_method_is_plain_text_guidance(mode, gradient):
    trajectory, events = make(), []
    guidance = method(0.5, mode, gradient, every=2)
    sample(trajectory, SmoothNoise(0.5), guidance, 5.0, on_step=events.append)
    for step in trajectory.schedule.descent()[1::2]:
        x = events[step.index - 1].x
        eps = SmoothNoise(0.5).guided(x, step.level, 5.0).eps
        after = ddim_step(x, eps, step.level, step.level_to)
        assert torch.equal(events[step.index].x, after)


@modes
@gradients
@pytest.mark.parametrize("falloff", [0.4, 1.0])
@pytest.mark.parametrize("index", [0, 3, 7])
def test_the_scale_falls_evenly_over_the_run(mode, gradient, falloff, index):
    trajectory = make()
    x = trajectory.states[trajectory.schedule.descent()[index].entry] + 0.2 * noise(*SHAPE, seed=5)
    whole, falling = (method(0.7, mode, gradient, falloff=f) for f in (0.0, falloff))
    torch.testing.assert_close(
        term_of(falling, trajectory, x, index),
        (1 - falloff * index / 8) * term_of(whole, trajectory, x, index),
        **EXACT,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("every", 0), ("every", -1), ("falloff", -0.1), ("falloff", 1.1), ("blend", -0.1)],
    ids=str,
)
def test_no_turns_and_no_share_are_refused_by_name_and_value(field, value):
    with pytest.raises(InvalidInput, match=rf"^{field} .*Got {value};"):
        method(**{field: value})


# --- The gradient pass ---------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("host_mode", [torch.inference_mode, torch.no_grad])
def test_the_full_gradient_where_the_host_wants_none_is_the_same(mode, host_mode):
    guidance = method(0.5, mode, Gradient.FULL)
    trajectory = make()
    x = trajectory.states[-4] + 0.2 * noise(*SHAPE, seed=5)
    expected = term_of(guidance, trajectory, x)
    with host_mode():
        assert torch.equal(term_of(guidance, trajectory, x + 0), expected)


@modes
def test_a_network_cut_off_from_the_latent_is_refused_for_the_full_gradient(mode):
    with pytest.raises(NotDifferentiable, match="'full'.*remove the patch, or use .*'direct'"):
        sample(make(), DetachedNoise(), method(0.5, mode, Gradient.FULL), 5.0)


@modes
def test_a_network_cut_off_from_the_latent_will_do_for_the_direct_gradient(mode):
    result = sample(make(), DetachedNoise(), method(0.5, mode, Gradient.DIRECT), 5.0)
    assert result.isfinite().all()


# --- What cannot be built ------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["noise_map_scale", "gradient_scale", "inside", "outside"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf], ids=str)
def test_a_strength_that_is_none_is_refused_by_name_and_value(field, value):
    with pytest.raises(InvalidInput, match=rf"^{field} .*Got {value};"):
        replace(method(), **{field: value})


@pytest.mark.parametrize(
    ("start", "end"),
    [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, math.nan)],
    ids=str,
)
def test_a_window_that_is_none_is_refused_with_both_ends(start, end):
    with pytest.raises(InvalidInput, match=rf"^start and end .*Got {start} to {end};"):
        method(start=start, end=end)


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
