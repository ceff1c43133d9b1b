"""Where an edit wants to happen: the formula, which states are looked at, union, cut and growth."""

from dataclasses import replace

import pytest
import torch
from toys import (
    IDENTITY,
    SPREADS,
    Counting,
    FailingNoise,
    SmoothNoise,
    noise,
    training_levels,
)

from nmg_sampler import (
    InvalidInput,
    NotFinite,
    Prompt,
    Trajectory,
    invert,
    official_masactrl_schedule,
    schedule_from_sigmas,
)
from nmg_sampler.looks import edit_region, region_entries

SHAPE = (2, 3, 7, 5)
SCHEDULE = official_masactrl_schedule(training_levels(), 10)
ENTRIES = (3, 4, 6)
EXACT = {"rtol": 0, "atol": 1e-12}


class LocalNoise(Counting):
    """Target prompts differ from the source where their pattern is not 0.

    Args:
        patterns: per target (C, h, w), added to the source's prediction, scaled with the level.
    """

    def __init__(self, *patterns):
        super().__init__()
        self.patterns = torch.stack(patterns)

    def noise_of(self, x, level, prompt):
        eps = level.sigma * x
        if prompt is Prompt.POSITIVE:
            pictures = len(x) // len(self.patterns)
            eps = eps + level.alpha * self.patterns.repeat_interleave(pictures, 0)
        return eps


def make(shape=SHAPE, schedule=SCHEDULE):
    states = invert(noise(*shape), schedule, SmoothNoise())
    return Trajectory(states, schedule, IDENTITY)


def spot(row, column, height=1.0, shape=SHAPE):
    """A pattern of one cell: +height in the first channel, -height in the others."""
    pattern = torch.zeros(shape[1:], dtype=torch.float64)
    pattern[:, row, column] = -height
    pattern[0, row, column] = height
    return pattern


def region(predictor, trajectory=None, **options):
    return edit_region(trajectory or make(), predictor, ENTRIES, **options)


# --- Which states --------------------------------------------------------------------------------


def test_of_fifty_steps_levels_15_to_31_are_looked_at():
    schedule = official_masactrl_schedule(training_levels(), 50)
    assert region_entries(schedule, 5) == (15, 19, 23, 27, 31)
    assert region_entries(schedule, 1) == (23,)
    assert region_entries(schedule, 50) == tuple(range(15, 32))


@pytest.mark.parametrize("schedule", SPREADS.values(), ids=SPREADS)
def test_an_edit_is_looked_for_at_the_same_noise_under_every_schedule(schedule):
    ratios = [schedule.levels[entry].noise_ratio for entry in region_entries(schedule, 5)]
    assert len(ratios) == 5
    for ratio, expected in zip(ratios, (0.78, 1.02, 1.34, 1.75, 2.29), strict=True):
        assert ratio == pytest.approx(expected, rel=0.1)


def test_a_schedule_of_one_step_down_to_no_noise_has_one_state_to_look_at():
    assert region_entries(schedule_from_sigmas("x", [10.0, 0.0]), 5) == (1,)


# --- The formula ---------------------------------------------------------------------------------


def test_the_map_is_the_mean_difference_by_its_maximum():
    trajectory, predictor = make(), SmoothNoise(0.8)
    total = torch.zeros(2, 1, *SHAPE[2:], dtype=torch.float64)
    for entry in ENTRIES:
        x, level = trajectory.states[entry], trajectory.schedule.levels[entry]
        target, source = (predictor.noise_of(x, level, p) for p in (Prompt.POSITIVE, Prompt.SOURCE))
        total += (target - source).abs().mean(1, keepdim=True)
    expected = total / total.amax((1, 2, 3), keepdim=True)
    soft = region(predictor, trajectory, threshold=0)
    assert soft.shape == (2, 1, *SHAPE[2:])
    torch.testing.assert_close(soft, expected, **EXACT)
    assert (soft.amax((1, 2, 3)) == 1).all()
    hard = region(predictor, trajectory, threshold=0.6)
    assert torch.equal(hard, (soft >= 0.6).double())
    assert 0 < float(hard.mean()) < 1


def test_signs_of_channels_do_not_cancel():
    found = region(LocalNoise(spot(2, 3, 0.1)))
    expected = torch.zeros(2, 1, *SHAPE[2:], dtype=torch.float64)
    expected[:, :, 2, 3] = 1
    assert torch.equal(found, expected)


def test_the_same_prompt_changes_nothing_anywhere():
    for threshold in (0, 0.35):
        assert not region(SmoothNoise(0.0), threshold=threshold).any()


@pytest.mark.parametrize("threshold", [0, 0.35])
def test_a_difference_by_rounding_is_none(threshold):
    found = region(LocalNoise(spot(2, 3, 1e-6)), threshold=threshold)
    assert float(found.max()) < 1e-2


def test_of_several_targets_the_region_is_their_union_however_small_one_is():
    predictor = LocalNoise(spot(1, 1, 5.0), spot(4, 3, 0.1))
    found = region(predictor, targets=2)
    assert found.shape == (2, 1, *SHAPE[2:])
    assert found[:, 0, 1, 1].tolist() == found[:, 0, 4, 3].tolist() == [1, 1]
    assert float(found.sum()) == 2 * 2


# --- Growth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grow", [0, 1, 2])
def test_the_region_is_grown_by_cells_in_each_direction(grow):
    found = region(LocalNoise(spot(3, 2)), grow=grow)[0, 0]
    expected = torch.zeros_like(found)
    expected[3 - grow : 4 + grow, 2 - grow : 3 + grow] = 1
    assert torch.equal(found, expected)


def test_growth_stops_at_the_edge_and_may_cover_all():
    found = region(LocalNoise(spot(0, 4)), grow=1)[0, 0]
    assert float(found.sum()) == 4
    assert bool((region(LocalNoise(spot(0, 4)), grow=64) == 1).all())


# --- Cost, batches, refusals ---------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 3])
def test_it_costs_a_row_per_prompt_and_entry_at_the_level_of_the_state(targets):
    predictor, trajectory = LocalNoise(*[spot(1, 1)] * targets), make()
    region(predictor, trajectory, targets=targets)
    assert predictor.rows == [2, 2 * targets] * len(ENTRIES)
    expected = [trajectory.schedule.levels[entry] for entry in ENTRIES for _ in range(2)]
    assert [call.level for call in predictor.calls] == expected
    assert not any(call.with_graph for call in predictor.calls)


def test_a_batch_of_two_is_two_singles():
    trajectory = make()
    both = region(SmoothNoise(0.8), trajectory, threshold=0)
    for k in range(2):
        single = replace(trajectory, states=trajectory.states[:, k : k + 1])
        alone = region(SmoothNoise(0.8), single, threshold=0)
        torch.testing.assert_close(both[k : k + 1], alone, **EXACT)


def test_each_state_is_reported_and_none_is_written_to():
    events, trajectory = [], make()
    before = trajectory.states.clone()
    region(SmoothNoise(0.8), trajectory, on_step=events.append)
    assert [event.index for event in events] == [0, 1, 2]
    assert all(event.x0.shape == SHAPE for event in events)
    assert torch.equal(trajectory.states, before)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"threshold": 1.5}, "^threshold leaves its range. Got 1.5"),
        ({"threshold": -0.1}, "^threshold leaves its range"),
        ({"grow": -1}, "^grow leaves its range. Got -1"),
    ],
)
def test_settings_out_of_range_are_refused_before_the_first_call(options, pattern):
    predictor = SmoothNoise()
    with pytest.raises(InvalidInput, match=pattern):
        region(predictor, **options)
    assert not predictor.calls


@pytest.mark.parametrize("call", [0, 3])
def test_a_bad_number_stops_it_with_its_step(call):
    with pytest.raises(NotFinite, match=f"step {call // 2 + 1} of 3"):
        region(FailingNoise(SmoothNoise(0.5), call))
