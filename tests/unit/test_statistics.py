"""What a trajectory tells without a model call: clean latents, and numbers of its states."""

import pytest
import torch
from toys import IDENTITY, ConstantNoise, SmoothNoise, geometric_sigmas, noise, training_levels

from nmg_sampler import Trajectory, invert, official_masactrl_schedule, schedule_from_sigmas
from nmg_sampler.looks import predicted_clean, statistics
from nmg_sampler.trajectory import eps_to_x0

SHAPE = (2, 3, 4, 4)
SCHEDULES = {
    "own": schedule_from_sigmas("x", geometric_sigmas(8)),
    "down to no noise": schedule_from_sigmas("x", [*geometric_sigmas(7), 0.0]),
    "official-masactrl": official_masactrl_schedule(training_levels(), 8),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


class Recording(SmoothNoise):
    """Keeps what it answered."""

    def __init__(self):
        super().__init__()
        self.answers = []

    def noise_of(self, x, level, prompt):
        self.answers.append(super().noise_of(x, level, prompt))
        return self.answers[-1]


def trajectory(schedule, predictor, dtype=torch.float64):
    states = invert(noise(*SHAPE), schedule, predictor)
    return Trajectory(states.to(dtype), schedule, IDENTITY)


@each_schedule
def test_the_clean_latent_of_two_states_is_the_one_the_step_between_them_went_by(schedule):
    constant = noise(1, 3, 4, 4, seed=1)
    made = trajectory(schedule, ConstantNoise(constant))
    for entry, level in enumerate(schedule.levels[:-1]):
        expected = (made.states[entry] - level.sigma * constant) / level.alpha
        torch.testing.assert_close(predicted_clean(made, entry), expected, rtol=0, atol=1e-9)


@each_schedule
def test_it_is_what_the_model_made_of_the_state(schedule):
    model = Recording()
    made = trajectory(schedule, model)
    assert len(model.answers) == 8
    for entry, answer in enumerate(model.answers):
        x0 = eps_to_x0(made.states[entry], answer, schedule.levels[entry])
        torch.testing.assert_close(predicted_clean(made, entry), x0, rtol=0, atol=1e-9)


def test_half_precision_states_are_taken_up_before_they_are_subtracted():
    made = trajectory(SCHEDULES["own"], SmoothNoise(), torch.float16)
    assert predicted_clean(made, 7).dtype == torch.float32
    exact = predicted_clean(trajectory(SCHEDULES["own"], SmoothNoise()), 7)
    assert (predicted_clean(made, 7) - exact).abs().max() < 0.1


def test_white_noise_has_the_numbers_of_white_noise():
    found = statistics(noise(4, 4, 64, 64))
    numbers = (found.mean, found.deviation - 1, found.kurtosis, found.correlation)
    # Four standard errors of 65536 independent normal numbers.
    for number, error in zip(numbers, (1, 0.71, 4.9, 0.71), strict=True):
        assert abs(number) < 4 * error / 256


def test_scale_and_shift_change_mean_and_deviation_alone():
    plain, moved = statistics(noise(*SHAPE)), statistics(3 - 2 * noise(*SHAPE))
    assert moved.mean == pytest.approx(3 - 2 * plain.mean)
    assert moved.deviation == pytest.approx(2 * plain.deviation)
    assert moved.kurtosis == pytest.approx(plain.kurtosis)
    assert moved.correlation == pytest.approx(plain.correlation)


def test_the_deviation_is_that_of_a_sample():
    state = noise(*SHAPE)
    assert statistics(state).deviation == pytest.approx(float(state.std()))


def test_kurtosis_tells_even_and_heavy_tailed_numbers_from_normal_ones():
    even = torch.linspace(-1, 1, 10_000, dtype=torch.float64).reshape(1, 1, 100, 100)
    assert statistics(even).kurtosis == pytest.approx(-1.2, abs=1e-3)
    assert statistics(noise(1, 1, 100, 100) ** 3).kurtosis > 10


def test_correlation_is_between_neighbours_down_and_across():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    assert statistics(board[None, None].double()).correlation == pytest.approx(-1)
    # Stripes: equal down, opposite across.
    stripes = (torch.arange(8) % 2).expand(8, 8)
    assert statistics(stripes[None, None].double()).correlation == pytest.approx(0)
    ramp = torch.arange(64, dtype=torch.float64).expand(64, 64)
    assert statistics(ramp[None, None]).correlation > 0.9


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 4, 8, 8)], ids=str)
def test_a_state_without_spread_has_numbers_all_the_same(shape):
    found = statistics(torch.full(shape, 0.5))
    assert (found.mean, found.deviation, found.kurtosis, found.correlation) == (0.5, 0, 0, 0)


def test_a_latent_of_one_row_has_neighbours_across_alone():
    row = (torch.arange(9) % 2).reshape(1, 1, 1, 9).double()
    assert statistics(row).correlation < -0.9
