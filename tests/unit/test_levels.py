"""The converters of levels.py: each with its inverse, and the identities of the VP family."""

import math

import pytest
import torch
from toys import noise

from nmg_sampler import InvalidInput, NoiseLevel
from nmg_sampler.trajectory import (
    Family,
    ddim_step,
    eps_to_x0,
    k_to_state,
    level_from_alpha_bar,
    level_from_flow_sigma,
    level_from_k_sigma,
    level_from_sigma,
    state_to_k,
    step_factors,
    x0_to_eps,
)

# Float64 rounding of a handful of operations on numbers of size 10.
EXACT = {"rtol": 0, "atol": 1e-12}

SIGMAS = [0.0, 0.0292, 0.3439, 1.6183, 14.615]
NOISY = SIGMAS[1:]
FLOW = level_from_flow_sigma(0.75)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_level_from_sigma_gives_that_sigma_back(sigma):
    assert level_from_k_sigma(sigma).k_sigma == pytest.approx(sigma, rel=1e-15)


@pytest.mark.parametrize("alpha_bar", [1.0, 0.99915, 0.276333, 0.00466])
def test_a_level_from_alpha_bar_gives_that_alpha_bar_back(alpha_bar):
    assert level_from_alpha_bar(alpha_bar).alpha ** 2 == pytest.approx(alpha_bar, rel=1e-15)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_signal_and_noise_power_of_a_level_add_up_to_one(sigma):
    level = level_from_k_sigma(sigma)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-15)


def test_both_ways_to_a_level_agree():
    level = level_from_alpha_bar(0.276333)
    again = level_from_k_sigma(level.k_sigma)
    assert (again.alpha, again.sigma) == pytest.approx((level.alpha, level.sigma), rel=1e-15)


@pytest.mark.parametrize("level", [*map(level_from_k_sigma, SIGMAS), FLOW], ids=str)
def test_a_state_survives_the_way_to_k_diffusion_and_back(level):
    x = noise(2, 3, 4, 4)
    torch.testing.assert_close(k_to_state(state_to_k(x, level), level), x, **EXACT)
    torch.testing.assert_close(state_to_k(k_to_state(x, level), level), x, **EXACT)


def test_the_k_diffusion_state_is_the_clean_latent_plus_sigma_times_noise():
    level, x0, eps = level_from_k_sigma(2.5), noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
    x = level.alpha * x0 + level.sigma * eps
    torch.testing.assert_close(state_to_k(x, level), x0 + 2.5 * eps, **EXACT)


@pytest.mark.parametrize("level", [*map(level_from_k_sigma, NOISY), FLOW], ids=str)
def test_noise_and_clean_latent_are_each_others_inverse(level):
    x, eps = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(x0_to_eps(x, eps_to_x0(x, eps, level), level), eps, **EXACT)
    x0 = noise(2, 3, 4, 4, seed=2)
    torch.testing.assert_close(eps_to_x0(x, x0_to_eps(x, x0, level), level), x0, **EXACT)


@pytest.mark.parametrize("level", [level_from_k_sigma(1.5), FLOW], ids=["vp", "flow"])
def test_the_clean_latent_of_a_mixed_state_is_what_was_mixed_in(level):
    x0, eps = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
    x = level.alpha * x0 + level.sigma * eps
    torch.testing.assert_close(eps_to_x0(x, eps, level), x0, **EXACT)


@pytest.mark.parametrize("sigmas", [(3.0, 0.7), (0.7, 3.0), (0.5, 0.0)], ids=str)
def test_a_step_keeps_clean_latent_and_noise_and_mixes_them_anew(sigmas):
    x0, eps = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
    level, level_to = map(level_from_k_sigma, sigmas)
    reached = ddim_step(level.alpha * x0 + level.sigma * eps, eps, level, level_to)
    torch.testing.assert_close(reached, level_to.alpha * x0 + level_to.sigma * eps, **EXACT)


def test_a_step_is_an_euler_step_in_k_diffusion_space():
    level, level_to = level_from_k_sigma(3.0), level_from_k_sigma(0.7)
    x, eps = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
    euler = state_to_k(x, level) + (0.7 - 3.0) * eps
    torch.testing.assert_close(
        state_to_k(ddim_step(x, eps, level, level_to), level_to), euler, **EXACT
    )


def test_a_step_back_along_the_same_noise_returns():
    level, level_to = level_from_k_sigma(0.3), level_from_k_sigma(5.0)
    x, eps = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    there = ddim_step(x, eps, level, level_to)
    torch.testing.assert_close(ddim_step(there, eps, level_to, level), x, **EXACT)


def test_the_shift_of_a_step_is_alpha_times_the_difference_of_sigmas():
    level, level_to = level_from_k_sigma(3.0), level_from_k_sigma(0.7)
    scale, shift = step_factors(level, level_to)
    assert scale == level_to.alpha / level.alpha
    assert shift == pytest.approx(level_to.alpha * (0.7 - 3.0), rel=1e-14)
    assert shift < 0  # the sign that makes +dE/dz in the noise lower the energy


def test_a_step_to_the_same_level_changes_nothing():
    level = level_from_k_sigma(0.3)
    assert step_factors(level, level) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("alpha", "sigma"),
    [(0.0, 1.0), (-0.1, 1.0), (1.0, -0.1), (math.nan, 1.0), (1.0, math.inf)],
    ids=str,
)
def test_an_impossible_level_is_refused_with_both_numbers(alpha, sigma):
    with pytest.raises(InvalidInput, match=f"noise level .*alpha {alpha}, sigma {sigma}"):
        NoiseLevel(alpha, sigma)


@pytest.mark.parametrize("sigma", [math.nan, math.inf, -math.inf, 1e200], ids=str)
def test_a_sigma_that_gives_no_level_is_refused(sigma):
    with pytest.raises(InvalidInput, match="noise level"):
        level_from_k_sigma(sigma)


# --- Rectified flow ------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.001, 0.3, 0.75, 1.0])
def test_a_flow_state_is_the_picture_and_the_velocity(sigma):
    """(1 - sigma) x0 + sigma noise, in the place of eps the velocity: at pure noise as well."""
    x0, white, level = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1), level_from_flow_sigma(sigma)
    state = (1 - sigma) * x0 + sigma * white
    torch.testing.assert_close(eps_to_x0(state, white - x0, level), x0, **EXACT)
    assert level.k_sigma == sigma
    assert torch.equal(state_to_k(state, level), state)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.9), (0.3, 0.0), (0.2, 0.7)])
def test_a_ddim_step_of_a_flow_is_an_euler_step(start, end):
    x, velocity = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    reached = ddim_step(x, velocity, level_from_flow_sigma(start), level_from_flow_sigma(end))
    torch.testing.assert_close(reached, x + (end - start) * velocity, **EXACT)


def test_a_level_knows_its_family_and_how_much_noise_there_is():
    assert level_from_k_sigma(2.0).family is Family.VP
    assert level_from_flow_sigma(2 / 3).family is Family.FLOW
    assert level_from_k_sigma(2.0).noise_ratio == pytest.approx(2)
    assert level_from_flow_sigma(2 / 3).noise_ratio == pytest.approx(2)
    assert level_from_flow_sigma(1.0).noise_ratio == math.inf
    assert level_from_flow_sigma(0.0).noise_ratio == level_from_k_sigma(0.0).noise_ratio == 0


def test_a_sigma_means_a_level_of_its_family():
    assert level_from_sigma(0.5, Family.VP) == level_from_k_sigma(0.5)
    assert level_from_sigma(0.5, Family.FLOW) == level_from_flow_sigma(0.5)


def test_a_flow_has_no_more_than_pure_noise():
    with pytest.raises(InvalidInput, match=r"above that of pure noise. Got 1\.01; expected 0 to 1"):
        level_from_flow_sigma(1.01)
