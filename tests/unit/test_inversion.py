"""The way up, and up and down again without a method: DDIM."""

import itertools
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from toys import (
    IDENTITY,
    ConstantNoise,
    FailingNoise,
    GaussianNoise,
    SmoothNoise,
    geometric_sigmas,
    noise,
    training_levels,
)
from toys import (
    edit_of as sample,
)

from nmg_sampler import (
    InvalidInput,
    NotFinite,
    PlainGuidance,
    Prompt,
    Trajectory,
    invert,
    official_masactrl_schedule,
    official_schedule,
    schedule_from_sigmas,
)
from nmg_sampler.methods import NoiseRegularization
from nmg_sampler.trajectory import Family, ddim_step, level_from_k_sigma, step_factors

ALPHAS_BAR = training_levels()
SHAPE = (2, 3, 4, 4)

SCHEDULES = {
    "official": official_schedule(ALPHAS_BAR, 10),
    "official, 30 steps": official_schedule(ALPHAS_BAR, 30),
    "official-masactrl": official_masactrl_schedule(ALPHAS_BAR, 10),
    "sigmas": schedule_from_sigmas("x", geometric_sigmas(10)),
    "sigmas to zero": schedule_from_sigmas("x", [*geometric_sigmas(9), 0.0]),
    "one step": schedule_from_sigmas("x", [5.0, 0.0]),
}
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def round_trip(x, schedule, predictor, text_scale=1.0):
    """`x` inverted and sampled back without a method."""
    trajectory = Trajectory(invert(x, schedule, predictor), schedule, IDENTITY)
    return sample(trajectory, predictor, PlainGuidance(), text_scale)


def slope(steps, errors):
    """The least-squares slope of -log(error) over log(steps): the order of convergence."""
    points = [(math.log(t), -math.log(e)) for t, e in zip(steps, errors, strict=True)]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    rise = sum((px - mean_x) * (py - mean_y) for px, py in points)
    return rise / sum((px - mean_x) ** 2 for px, _ in points)


@schedules
def test_constant_noise_is_a_straight_line_up(schedule):
    x, predictor = noise(*SHAPE), ConstantNoise(noise(*SHAPE, seed=1))
    states = invert(x, schedule, predictor)
    first, last = schedule.levels[0], schedule.levels[-1]
    x_k = x / first.alpha + (last.k_sigma - first.k_sigma) * predictor.value
    # Float64 rounding of up to 30 steps on numbers below 20.
    torch.testing.assert_close(states[-1], last.alpha * x_k, rtol=0, atol=1e-12)


@schedules
def test_constant_noise_goes_up_and_down_exactly(schedule):
    x, predictor = noise(*SHAPE), ConstantNoise(noise(*SHAPE, seed=1))
    back = round_trip(x, schedule, predictor)
    if schedule.name == "official":
        # The reference relabels the last state to the level below without rescaling it.
        x = relabelled_source(x, schedule, predictor.value)
    # Float64 rounding, enlarged by 1 / alpha of the noisiest level (below 15).
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)


def relabelled_source(x, schedule, eps):
    """Where sampling ends if the last state is taken to be at `schedule.start`."""
    levels = schedule.levels
    up_scale, up_shift = step_factors(levels[0], levels[-1])
    down_scale, down_shift = step_factors(levels[schedule.start], levels[0])
    return down_scale * (up_scale * x + up_shift * eps) + down_shift * eps


STEPS = [16, 32, 64, 128, 256]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_gaussian_data_converge_to_the_exact_flow_with_order_one(direction):
    x, predictor, errors = noise(1, 2, 3, 3), GaussianNoise(), []
    for steps in STEPS:
        schedule = schedule_from_sigmas("x", geometric_sigmas(steps))
        low, high = schedule.levels[0], schedule.levels[-1]
        if direction == "up":
            result = invert(x, schedule, predictor)[-1]
            exact = predictor.carry(x, low, high)
        else:
            noisiest = x.expand(steps + 1, *x.shape)
            trajectory = Trajectory(noisiest, schedule, IDENTITY)
            result = sample(trajectory, predictor, PlainGuidance(), 1.0)
            exact = predictor.carry(x, high, low)
        errors.append((result - exact).abs().max().item())
    # First order in the number of steps: slope 1, with room for the higher orders at 16 steps.
    assert slope(STEPS, errors) == pytest.approx(1, abs=0.1)


def test_the_cycle_error_falls_like_one_over_the_number_of_steps():
    x, predictor, errors = noise(1, 3, 4, 4), SmoothNoise(), []
    for steps in STEPS:
        schedule = schedule_from_sigmas("x", geometric_sigmas(steps))
        errors.append((round_trip(x, schedule, predictor) - x).abs().max().item())
    assert slope(STEPS, errors) == pytest.approx(1, abs=0.1)


def test_text_guidance_reconstructs_worse_than_none():
    x, predictor = noise(1, 3, 4, 4), SmoothNoise()
    schedule = schedule_from_sigmas("x", geometric_sigmas(50))
    plain, guided = (
        (round_trip(x, schedule, predictor, text_scale) - x).abs().mean()
        for text_scale in (1.0, 7.5)
    )
    assert guided > 5 * plain


@pytest.mark.parametrize("name", ["official", "official-masactrl", "sigmas to zero"])
def test_the_states_equal_the_variance_preserving_loop_written_out(name):
    schedule, predictor, x = SCHEDULES[name], SmoothNoise(), noise(*SHAPE)
    labels = schedule.levels[:-1] if name == "official" else schedule.levels[1:]
    expected = [x]
    for low, high, label in zip(schedule.levels, schedule.levels[1:], labels, strict=False):
        eps = predictor.noise_of(x, label, Prompt.SOURCE)
        x = (high.alpha / low.alpha) * x + (high.sigma - high.alpha / low.alpha * low.sigma) * eps
        expected.append(x)
    # Float64 rounding: the same formula, other order of operations at most.
    torch.testing.assert_close(
        invert(expected[0], schedule, predictor), torch.stack(expected), rtol=0, atol=1e-12
    )


def denoised(predictor, x_k, sigma):
    """What a k-diffusion model answers: one sigma fixes both its input scaling and its label."""
    level = level_from_k_sigma(sigma)
    return x_k - sigma * predictor.noise_of(x_k * level.alpha, level, Prompt.SOURCE)


@pytest.mark.parametrize("scaled", [True, False], ids=["recipe", "naive call"])
def test_destination_labels_through_a_k_diffusion_model_need_the_input_rescaled(scaled):
    sigmas, predictor, x = geometric_sigmas(12)[::-1], SmoothNoise(), noise(*SHAPE)
    schedule = schedule_from_sigmas("x", sigmas[::-1])
    x_k = x / schedule.levels[0].alpha
    for sigma, sigma_to in zip(sigmas, sigmas[1:], strict=False):
        # Fact file 1.3: the network sees the unscaled lower state with the upper label.
        factor = math.sqrt((1 + sigma_to**2) / (1 + sigma**2)) if scaled else 1.0
        y = x_k * factor
        eps = (y - denoised(predictor, y, sigma_to)) / sigma_to
        x_k = x_k + (sigma_to - sigma) * eps
    difference = (x_k * schedule.levels[-1].alpha - invert(x, schedule, predictor)[-1]).abs().max()
    # Equal within rounding, or not nearly.
    assert difference < 1e-10 if scaled else difference > 1e-2


def test_official_labels_through_a_k_diffusion_model_need_nothing():
    schedule, predictor, x = SCHEDULES["official"], SmoothNoise(), noise(*SHAPE)
    sigmas = [level.k_sigma for level in schedule.levels]
    x_k = x / schedule.levels[0].alpha
    for sigma, sigma_to in zip(sigmas, sigmas[1:], strict=False):
        eps = (x_k - denoised(predictor, x_k, sigma)) / sigma
        x_k = x_k + (sigma_to - sigma) * eps
    # Rounding of ten steps in another space.
    torch.testing.assert_close(
        x_k * schedule.levels[-1].alpha, invert(x, schedule, predictor)[-1], rtol=0, atol=1e-10
    )


@schedules
def test_the_first_state_is_the_source_bit_for_bit(schedule):
    x = noise(*SHAPE, dtype=torch.float32)
    states = invert(x, schedule, SmoothNoise())
    assert torch.equal(states[0], x)
    assert states.shape == (len(schedule.levels), *SHAPE)
    assert states.dtype == torch.float32


@schedules
def test_an_inversion_asks_once_per_step_for_one_row_per_sample_under_the_source(schedule):
    predictor = SmoothNoise()
    invert(noise(*SHAPE), schedule, predictor)
    assert [call.level for call in predictor.calls] == list(schedule.query_levels)
    assert {(call.kind, call.rows, call.prompt) for call in predictor.calls} == {
        ("eps", 2, Prompt.SOURCE)
    }


def test_a_batch_of_two_equals_two_singles():
    schedule, x = SCHEDULES["sigmas"], noise(*SHAPE)
    singles = [invert(x[k : k + 1], schedule, SmoothNoise()) for k in range(2)]
    # Vectorised tanh may round the last bit by position.
    torch.testing.assert_close(
        invert(x, schedule, SmoothNoise()), torch.cat(singles, 1), rtol=0, atol=1e-12
    )


def test_the_source_is_not_written_to():
    x = noise(*SHAPE)
    before, version = x.clone(), x._version
    invert(x, SCHEDULES["sigmas"], SmoothNoise())
    assert torch.equal(x, before)
    assert x._version == version


def test_each_step_reports_its_state_and_predicted_clean_latent():
    schedule, predictor, events = SCHEDULES["sigmas"], GaussianNoise(), []
    states = invert(noise(*SHAPE), schedule, predictor, events.append)
    assert [event.index for event in events] == list(range(10))
    assert {event.total for event in events} == {10}
    assert [event.level for event in events] == list(schedule.levels[1:])
    assert torch.equal(torch.stack([event.x for event in events]), states[1:])
    first, query = states[0], schedule.query_levels[0]
    x0 = (first - query.sigma * predictor.noise_of(first, query, None)) / query.alpha
    assert torch.equal(events[0].x0, x0)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_bad_number_stops_the_inversion_with_step_and_sigma(value):
    schedule = schedule_from_sigmas("x", [8.0, 4.0, 2.0, 1.0, 0.5])
    predictor, events = FailingNoise(SmoothNoise(), 2, value), []
    with pytest.raises(NotFinite, match=r"step 3 of 4 \(sigma 4\)\. Got 1 .* of 96;"):
        invert(noise(*SHAPE), schedule, predictor, events.append)
    assert len(predictor.calls) == 3
    assert len(events) == 2


def test_an_inversion_draws_no_random_numbers():
    before = torch.get_rng_state()
    invert(noise(*SHAPE), SCHEDULES["sigmas"], SmoothNoise())
    assert torch.equal(torch.get_rng_state(), before)


def test_an_inversion_in_inference_mode_gives_the_same_states():
    x, schedule = noise(*SHAPE), SCHEDULES["sigmas"]
    with torch.inference_mode():
        states = invert(x, schedule, SmoothNoise())
    assert torch.equal(states, invert(x, schedule, SmoothNoise()))


class Regularized(SmoothNoise):
    """A network whose predictions are already what `regularize` makes of them."""

    def __init__(self, regularize):
        super().__init__()
        self.regularize = regularize

    def noise_of(self, x, level, prompt):
        return self.regularize(super().noise_of(x, level, prompt))


def whitened(seed=0):
    """pix2pix-zero's regularisation with shifts of its own."""
    return partial(NoiseRegularization(2), generator=torch.Generator().manual_seed(seed))


@schedules
def test_a_regularised_inversion_steps_with_the_regularised_noise(schedule):
    x, events, others = noise(*SHAPE), [], []
    states = invert(x, schedule, SmoothNoise(), events.append, whitened())
    assert torch.equal(states, invert(x, schedule, Regularized(whitened()), others.append))
    for event, other in zip(events, others, strict=True):
        assert torch.equal(event.x0, other.x0)
    assert not torch.equal(states, invert(x, schedule, SmoothNoise()))


def test_a_regularised_inversion_asks_the_network_no_more_often():
    predictor = SmoothNoise()
    invert(noise(*SHAPE), SCHEDULES["sigmas"], predictor, regularize=whitened())
    assert predictor.rows == [2] * 10


def test_a_regularisation_that_changes_nothing_changes_no_bit():
    x, schedule = noise(*SHAPE), SCHEDULES["sigmas"]
    plain = invert(x, schedule, SmoothNoise())
    assert torch.equal(invert(x, schedule, SmoothNoise(), regularize=lambda eps: eps), plain)


def test_a_regularised_inversion_is_that_of_its_seed():
    x, schedule = noise(1, 3, 12, 12), SCHEDULES["sigmas"]
    one, again, other = (
        invert(x, schedule, SmoothNoise(), regularize=whitened(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_regularised_batch_of_two_equals_two_singles():
    schedule, x = SCHEDULES["sigmas"], noise(2, 3, 12, 10)
    singles = [
        invert(x[k : k + 1], schedule, SmoothNoise(), regularize=whitened()) for k in range(2)
    ]
    # Float64 rounding through ten steps that depend on each other.
    torch.testing.assert_close(
        invert(x, schedule, SmoothNoise(), regularize=whitened()),
        torch.cat(singles, 1),
        rtol=0,
        atol=1e-11,
    )


def test_a_bad_number_of_the_regularisation_is_told_from_one_of_the_network():
    with pytest.raises(NotFinite, match=r"regularised prediction is not finite at step 1 of 10"):
        invert(noise(*SHAPE), SCHEDULES["sigmas"], SmoothNoise(), regularize=lambda e: e / 0)
    failing = FailingNoise(SmoothNoise(), 0)
    with pytest.raises(NotFinite, match=r"model's prediction is not finite at step 1"):
        invert(noise(*SHAPE), SCHEDULES["sigmas"], failing, regularize=whitened())


# --- Fixed-point refinement ----------------------------------------------------------------------

# Sampling starts at the last level: with "official" it starts below, and that error stays.
CLOSING = {name: SCHEDULES[name] for name in ("official-masactrl", "sigmas", "sigmas to zero")}
closing = pytest.mark.parametrize("schedule", CLOSING.values(), ids=CLOSING)


class CalmNoise(SmoothNoise):
    """A network whose steps change little with their own result: the iteration contracts fast."""

    def noise_of(self, x, level, prompt):
        return 0.3 * super().noise_of(x, level, prompt)


def cycle_errors(schedule, iterations, **options):
    """The round trip's error for each count of refinements."""
    x, predictor = noise(*SHAPE), CalmNoise()
    return [
        (
            sample(
                Trajectory(
                    invert(x, schedule, predictor, refine_iterations=count, **options),
                    schedule,
                    IDENTITY,
                ),
                predictor,
                PlainGuidance(),
                1.0,
            )
            - x
        )
        .abs()
        .max()
        .item()
        for count in iterations
    ]


@closing
def test_the_cycle_error_falls_by_a_factor_with_every_refinement(schedule):
    errors = cycle_errors(schedule, range(7))
    falls = [later / earlier for earlier, later in itertools.pairwise(errors)]
    assert max(falls) < 0.4
    assert errors[6] < 1e-3 * errors[0]
    assert cycle_errors(schedule, [60])[0] < 1e-12


def test_refinement_gains_more_than_as_many_calls_spent_on_steps():
    coarse, fine = (schedule_from_sigmas("x", geometric_sigmas(steps)) for steps in (10, 50))
    assert cycle_errors(coarse, [4])[0] < 0.1 * cycle_errors(fine, [0])[0]


@closing
def test_the_fixed_point_is_the_exact_inverse_of_the_sampling_step(schedule):
    states = invert(noise(*SHAPE), schedule, CalmNoise(), refine_iterations=60)
    for step in schedule.descent():
        eps = CalmNoise().noise_of(states[step.entry], step.level, Prompt.SOURCE)
        down = ddim_step(states[step.entry], eps, step.level, step.level_to)
        torch.testing.assert_close(down, states[step.entry_to], rtol=0, atol=1e-12)


@schedules
def test_no_refinement_is_plain_inversion_bit_for_bit(schedule):
    x, predictor = noise(*SHAPE), SmoothNoise()
    plain = invert(x, schedule, SmoothNoise())
    assert torch.equal(invert(x, schedule, predictor, refine_iterations=0), plain)
    assert not torch.equal(invert(x, schedule, SmoothNoise(), refine_iterations=1), plain)


@schedules
@pytest.mark.parametrize("count", [1, 3])
def test_a_refinement_asks_at_the_level_reached_whatever_the_label(schedule, count):
    predictor = SmoothNoise()
    invert(noise(*SHAPE), schedule, predictor, refine_iterations=count)
    expected = [
        level
        for query, reached in zip(schedule.query_levels, schedule.levels[1:], strict=True)
        for level in (query, *[reached] * count)
    ]
    assert [call.level for call in predictor.calls] == expected
    assert {(call.kind, call.rows, call.prompt) for call in predictor.calls} == {
        ("eps", 2, Prompt.SOURCE)
    }


@schedules
def test_the_refined_states_equal_the_iteration_written_out(schedule):
    predictor, x = SmoothNoise(), noise(*SHAPE)
    expected = [x]
    for index, query in enumerate(schedule.query_levels):
        ends = schedule.levels[index], schedule.levels[index + 1]
        reached = ddim_step(x, predictor.noise_of(x, query, Prompt.SOURCE), *ends)
        for _ in range(2):
            reached = ddim_step(x, predictor.noise_of(reached, ends[1], Prompt.SOURCE), *ends)
        x = reached
        expected.append(x)
    states = invert(expected[0], schedule, predictor, refine_iterations=2)
    assert torch.equal(states, torch.stack(expected))


def test_the_fixed_point_does_not_depend_on_where_the_first_answer_was_asked():
    schedule, x = SCHEDULES["sigmas"], noise(*SHAPE)
    relabelled = replace(schedule, query_levels=schedule.levels[:-1])
    one, other = (invert(x, s, CalmNoise(), refine_iterations=60) for s in (schedule, relabelled))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_official_keeps_the_error_of_where_its_sampling_starts():
    schedule = SCHEDULES["official"]
    plain, refined, more = cycle_errors(schedule, [0, 5, 60])
    assert refined == pytest.approx(more, rel=1e-2)
    assert more > 1e-3


def test_every_refined_prediction_is_regularised():
    x, schedule, seen = noise(*SHAPE), SCHEDULES["sigmas"], []

    def halve(eps):
        seen.append(eps)
        return eps / 2

    class Half(SmoothNoise):
        def noise_of(self, x, level, prompt):
            return super().noise_of(x, level, prompt) / 2

    states = invert(x, schedule, SmoothNoise(), regularize=halve, refine_iterations=2)
    assert torch.equal(states, invert(x, schedule, Half(), refine_iterations=2))
    assert len(seen) == 30


def test_a_refined_batch_of_two_equals_two_singles_at_odd_sizes():
    schedule, x = SCHEDULES["sigmas"], noise(2, 3, 5, 3)
    singles = [invert(x[k : k + 1], schedule, SmoothNoise(), refine_iterations=2) for k in range(2)]
    torch.testing.assert_close(
        invert(x, schedule, SmoothNoise(), refine_iterations=2),
        torch.cat(singles, 1),
        rtol=0,
        atol=1e-11,
    )


def test_a_refined_step_reports_once_with_the_clean_latent_of_its_last_answer():
    schedule, events = SCHEDULES["sigmas"], []
    states = invert(noise(*SHAPE), schedule, SmoothNoise(), events.append, refine_iterations=2)
    assert torch.equal(torch.stack([event.x for event in events]), states[1:])
    # A step keeps the clean latent and the noise of its prediction: both ends tell the same one.
    low, high = schedule.levels[0], schedule.levels[1]
    eps = (states[1] * low.alpha - states[0] * high.alpha) / (
        high.sigma * low.alpha - low.sigma * high.alpha
    )
    x0 = (states[0] - low.sigma * eps) / low.alpha
    torch.testing.assert_close(events[0].x0, x0, rtol=0, atol=1e-10)


def test_a_bad_number_in_a_refinement_stops_the_inversion_with_its_own_sigma():
    schedule = schedule_from_sigmas("x", [8.0, 4.0, 2.0, 1.0, 0.5])
    predictor = FailingNoise(SmoothNoise(), 4)
    with pytest.raises(NotFinite, match=r"step 2 of 4 \(sigma 2\)"):
        invert(noise(*SHAPE), schedule, predictor, refine_iterations=2)


def test_fewer_refinements_than_none_are_refused():
    predictor = SmoothNoise()
    with pytest.raises(InvalidInput, match=r"^refine_iterations .*Got -1;"):
        invert(noise(*SHAPE), SCHEDULES["sigmas"], predictor, refine_iterations=-1)
    assert predictor.calls == []


def test_the_velocity_of_a_flow_is_not_made_white():
    predictor, schedule = SmoothNoise(), schedule_from_sigmas("x", [1.0, 0.5, 0.0], Family.FLOW)
    with pytest.raises(InvalidInput, match=r"^regularize .*velocity. Got a flow model;"):
        invert(noise(*SHAPE), schedule, predictor, regularize=torch.neg)
    assert predictor.calls == []
