"""The schedules of schedule.py: levels, labels, descent, and what they refuse."""

import math

import pytest
import torch
from toys import training_levels

from nmg_sampler import (
    InvalidInput,
    Schedule,
    evenly_spaced_schedule,
    official_masactrl_schedule,
    official_schedule,
    schedule_from_sigmas,
)
from nmg_sampler.trajectory import (
    Family,
    level_from_alpha_bar,
    level_from_flow_sigma,
    level_from_k_sigma,
)

ALPHAS_BAR = training_levels()


def at(timesteps):
    """The levels of these training timesteps."""
    return tuple(level_from_alpha_bar(ALPHAS_BAR[t]) for t in timesteps)


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (50, [*range(0, 1000, 20), 999]),
        (10, [*range(0, 1000, 100), 999]),
        (30, list(range(0, 991, 33))),  # 30 does not divide 1000: the last is 30 * 33
        (2, [0, 500, 999]),
        (600, list(range(601))),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_official_levels_are_whole_strides_of_training_steps(steps, timesteps):
    assert official_schedule(ALPHAS_BAR, steps).levels == at(timesteps)


def test_official_inversion_asks_at_the_level_the_state_is_at():
    schedule = official_schedule(ALPHAS_BAR, 50)
    assert schedule.query_levels == at(range(0, 1000, 20))


def test_official_sampling_starts_one_level_below_the_last_state():
    schedule = official_schedule(ALPHAS_BAR, 50)
    assert schedule.levels[schedule.start] == at([980])[0]
    assert len(schedule.levels) == 51


def test_official_sampling_leaves_the_step_that_changes_nothing_out():
    steps = official_schedule(ALPHAS_BAR, 50).descent()
    assert len(steps) == 49
    assert steps[-1].level_to == at([0])[0]
    assert all(step.level_to.sigma < step.level.sigma for step in steps)


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (50, [0, *range(1, 982, 20)]),
        (10, [0, *range(1, 902, 100)]),
        (30, [0, *range(1, 959, 33)]),
        (1, [0, 1]),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_masactrl_levels_are_offset_by_one(steps, timesteps):
    assert official_masactrl_schedule(ALPHAS_BAR, steps).levels == at(timesteps)


def test_masactrl_inversion_asks_at_the_level_it_goes_to():
    schedule = official_masactrl_schedule(ALPHAS_BAR, 50)
    assert schedule.query_levels == schedule.levels[1:]
    assert schedule.start == 50


def test_the_levels_of_stable_diffusion_have_the_known_sigmas():
    levels = official_schedule(ALPHAS_BAR, 50).levels
    sigmas = [levels[k].k_sigma for k in (0, 1, 5, 25, 49, 50)]
    # Table 1.2 of the fact file, four digits.
    assert sigmas == pytest.approx([0.0292, 0.1380, 0.3439, 1.6183, 13.043, 14.615], rel=2e-3)


def test_sigmas_become_ascending_levels_and_destination_labels():
    schedule = schedule_from_sigmas("karras", [5.0, 1.0, 0.25])
    assert schedule.name == "karras"
    assert schedule.levels == tuple(map(level_from_k_sigma, [0.25, 1.0, 5.0]))
    assert schedule.query_levels == schedule.levels[1:]
    assert schedule.start == 2


def test_sigmas_may_come_as_a_tensor():
    tensor = torch.tensor([5.0, 1.0, 0.25])
    assert schedule_from_sigmas("x", tensor) == schedule_from_sigmas("x", [5.0, 1.0, 0.25])


def test_the_lowest_sigma_may_be_zero_and_the_network_is_not_asked_there():
    schedule = schedule_from_sigmas("normal", [5.0, 1.0, 0.0])
    assert schedule.levels[0].sigma == 0
    assert all(level.sigma > 0 for level in schedule.query_levels)
    assert all(step.level.sigma > 0 for step in schedule.descent())


def test_two_sigmas_are_a_schedule_of_one_step():
    (step,) = schedule_from_sigmas("one", [5.0, 0.0]).descent()
    assert (step.index, step.entry, step.entry_to) == (0, 1, 0)


def test_the_descent_names_entries_and_levels_noisiest_first():
    schedule = official_schedule(ALPHAS_BAR, 4)
    steps = schedule.descent()
    assert [(step.index, step.entry, step.entry_to) for step in steps] == [
        (0, 3, 2),
        (1, 2, 1),
        (2, 1, 0),
    ]
    assert [step.level for step in steps] == list(at([750, 500, 250]))
    assert [step.level_to for step in steps] == list(at([500, 250, 0]))


@pytest.mark.parametrize("make", [official_schedule, official_masactrl_schedule])
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range_are_refused_with_their_number(make, steps):
    with pytest.raises(InvalidInput, match=rf"^steps .*Got {steps};"):
        make(ALPHAS_BAR, steps)


@pytest.mark.parametrize("make", [official_schedule, official_masactrl_schedule])
def test_a_model_of_50_timesteps_is_not_told_that_50_steps_are_usual(make):
    with pytest.raises(InvalidInput, match="Got 50; .*This model has 50 timesteps.*4 to 8") as told:
        make(ALPHAS_BAR[19::20], 50)
    assert "50 is usual" not in str(told.value)
    with pytest.raises(InvalidInput, match="50 is usual"):
        make(ALPHAS_BAR, 1001)


def test_one_official_step_is_refused():
    with pytest.raises(InvalidInput, match=r"^steps .*Got 1; expected 2 to"):
        official_schedule(ALPHAS_BAR, 1)


def test_more_masactrl_steps_than_timesteps_above_the_first_are_refused():
    with pytest.raises(InvalidInput, match=r"^steps .*Got 1000; expected 1 to 999"):
        official_masactrl_schedule(ALPHAS_BAR, 1000)


@pytest.mark.parametrize(
    ("sigmas", "got"),
    [
        ([], "Got 0;"),
        ([1.0], "Got 1;"),
        ([2.0, math.nan, 0.5], "Got nan at index 1;"),
        ([math.inf, 1.0], "Got inf at index 0;"),
        ([2.0, 1.0, -0.5], "Got -0.5 at index 2;"),
        ([0.5, 1.0, 2.0], "Got 0.5 before 1 at index 1;"),
        ([2.0, 1.0, 1.0], "Got 1 before 1 at index 2;"),
    ],
    ids=["none", "one", "nan", "infinite", "negative", "ascending", "repeated"],
)
def test_sigmas_that_are_no_schedule_are_refused_with_number_and_place(sigmas, got):
    with pytest.raises(InvalidInput, match=f"^sigmas .*{got}"):
        schedule_from_sigmas("custom", sigmas)


def test_the_sigmas_of_a_flow_become_its_levels():
    schedule = schedule_from_sigmas("simple", [1.0, 0.6, 0.0], Family.FLOW)
    assert schedule.levels == tuple(map(level_from_flow_sigma, [0.0, 0.6, 1.0]))
    assert schedule.family is Family.FLOW
    assert schedule_from_sigmas("simple", [1.0, 0.6, 0.0]).family is Family.VP


def test_a_flow_has_evenly_spaced_levels_as_stable_diffusion_has():
    table = [level_from_flow_sigma((k + 1) / 1000) for k in range(1000)]
    schedule = evenly_spaced_schedule("official-masactrl", table, 50)
    assert schedule.levels == tuple(table[t] for t in [0, *range(1, 982, 20)])
    assert schedule.query_levels == schedule.levels[1:]
    assert schedule.levels[-1].sigma < 1


LEVELS = tuple(map(level_from_k_sigma, [0.1, 1.0, 5.0]))


@pytest.mark.parametrize(
    ("levels", "queries", "start", "got"),
    [
        (LEVELS[::-1], LEVELS[1:], 2, "sigma 5 followed by 1"),
        ((LEVELS[0], LEVELS[0]), LEVELS[:1], 1, "sigma 0.1 followed by 0.1"),
        (LEVELS, LEVELS, 2, "3 levels, 3 queries, start 2"),
        (LEVELS, LEVELS[1:], 0, "3 levels, 2 queries, start 0"),
        (LEVELS, LEVELS[1:], 3, "3 levels, 2 queries, start 3"),
        (LEVELS[:1], (), 1, "1 levels, 0 queries, start 1"),
    ],
    ids=["descending", "repeated", "queries", "start low", "start high", "one level"],
)
def test_an_inconsistent_schedule_is_refused_with_its_numbers(levels, queries, start, got):
    with pytest.raises(InvalidInput, match=f"^schedule .*{got}"):
        Schedule("x", levels, queries, start)
