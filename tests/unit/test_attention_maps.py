"""Maps of words: which layers, which columns, which states, and what is kept of them."""

import pytest
import torch
from toys import (
    IDENTITY,
    SPREADS,
    AttentiveNoise,
    FailingNoise,
    LinearNoise,
    noise,
    training_levels,
)

from nmg_sampler import (
    Attends,
    AttentionLayer,
    Branches,
    InvalidInput,
    NotFinite,
    Prompt,
    Trajectory,
    UNetPlace,
    invert,
    official_masactrl_schedule,
    official_schedule,
)
from nmg_sampler.contract import ColumnMaps, probabilities, shows_words
from nmg_sampler.looks import masks_of, word_entries, word_maps

STEPS = 10
SCHEDULES = {
    make.__name__: make(training_levels(), STEPS)
    for make in (official_schedule, official_masactrl_schedule)
}
SHAPE = (2, 4, 6, 4)
SOURCE, NEGATIVE = noise(5, 4, seed=1), noise(5, 4, seed=2)
WORDS = ((1,), (2, 3), (0, 4))
EXACT = {"rtol": 0, "atol": 1e-12}


def network(pictures=2):
    return AttentiveNoise(SOURCE, [], NEGATIVE, Branches(pictures, 0, True))


def make(schedule):
    return Trajectory(invert(noise(*SHAPE), schedule, network()), schedule, IDENTITY)


class Seeing:
    """Keeps the maps of every cross-attention layer."""

    def __init__(self):
        self.calls = []

    def wants(self, layer):
        return layer.attends is Attends.CROSS

    def __call__(self, call):
        maps = probabilities(call.q, call.k)
        self.calls.append((call.layer.factor, call.size, maps))
        return call.plain()


def layer(factor, factors):
    return AttentionLayer(0, 1, Attends.CROSS, factor, UNetPlace("input", factors))


@pytest.mark.parametrize(
    ("factors", "latent", "factor", "expected"),
    [
        ((1, 2, 4, 8), (64, 64), 0, 4),  # SD 1.x at 512 x 512: 16 x 16 cells, as published
        ((1, 2, 4, 8), (96, 48), 0, 2),  # 384 pixels wide: a quarter is 12 cells
        ((2, 4), (128, 128), 0, 4),  # SDXL
        ((1, 2), (16, 16), 0, 1),  # the demo model
        ((1, 2), (8, 8), 0, 1),
        ((1, 8), (256, 256), 0, 8),
        ((2, 8), (256, 256), 0, 2),  # as near: the finer one
        ((1, 2, 4, 8), (64, 64), 1, 1),
        ((1, 2), (16, 16), 4, 2),
    ],
)
def test_words_are_looked_for_where_they_are_located_best(factors, latent, factor, expected):
    assert [f for f in factors if shows_words(layer(f, factors), latent, factor)] == [expected]
    own = AttentionLayer(0, 1, Attends.SELF, expected, UNetPlace("input", factors))
    assert not shows_words(own, latent, factor)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("factor", [1, 2])
def test_a_map_is_the_mean_over_layers_heads_and_levels_and_the_sum_over_tokens(schedule, factor):
    trajectory = make(schedule)
    entries = (2, 3, 7)
    got = word_maps(trajectory, network(), WORDS, entries, factor=factor)
    assert got.shape == (3, 2, 6 // factor, 4 // factor)
    seen = Seeing()
    for entry in entries:
        level = schedule.query_levels[entry]
        network().eps(trajectory.states[entry], level, Prompt.SOURCE, seen)
    chosen = [(size, maps) for at, size, maps in seen.calls if at == factor]
    assert len(chosen) == {1: 2, 2: 1}[factor] * len(entries)
    for word, columns in enumerate(WORDS):
        for picture in range(2):
            expected = [maps[picture, :, :, c] for _, maps in chosen for c in columns]
            mean = torch.stack(expected).sum(0).mean(0) / len(chosen)
            torch.testing.assert_close(got[word, picture], mean.reshape(chosen[0][0]), **EXACT)


def test_all_words_together_are_everywhere_one():
    maps = word_maps(make(SCHEDULES["official_schedule"]), network(), [range(5)], (4,))
    torch.testing.assert_close(maps, torch.ones_like(maps), **EXACT)


def test_a_batch_of_two_is_two_singles():
    schedule = SCHEDULES["official_schedule"]
    trajectory = make(schedule)
    both = word_maps(trajectory, network(), WORDS, (3, 5))
    for row in range(2):
        single = Trajectory(trajectory.states[:, row : row + 1], schedule, IDENTITY)
        one = word_maps(single, network(1), WORDS, (3, 5))
        torch.testing.assert_close(both[:, row : row + 1], one, **EXACT)


def test_it_costs_a_row_of_each_picture_per_level_and_leaves_the_trajectory_alone():
    trajectory = make(SCHEDULES["official_schedule"])
    before, predictor, events = trajectory.states.clone(), network(), []
    word_maps(trajectory, predictor, WORDS, (1, 4, 6), on_step=events.append)
    assert predictor.rows == [2, 2, 2]
    assert not any(call.with_graph for call in predictor.calls)
    assert torch.equal(trajectory.states, before)
    assert [(event.index, event.total) for event in events] == [(0, 3), (1, 3), (2, 3)]
    assert torch.equal(events[1].x, before[4])


def test_only_the_words_columns_are_kept_whatever_is_added():
    maps = ColumnMaps([(1,), (2, 3)])
    sizes = []
    for seed in range(4):
        maps.add([noise(2, 8, 6, 77, seed=seed).softmax(-1)] * 2, (2, 3))
        kept = [value for value in vars(maps).values() if isinstance(value, torch.Tensor)]
        sizes.append(sum(value.numel() for value in kept))
    assert sizes == [2 * 2 * 6] * 4


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_state_is_shown_at_the_level_the_inversion_asked_at(schedule):
    predictor = network()
    states = invert(noise(*SHAPE), schedule, predictor)
    asked = [call.level for call in predictor.calls]
    predictor.forget()
    word_maps(Trajectory(states, schedule, IDENTITY), predictor, WORDS, (1, 4, 6))
    assert [call.level for call in predictor.calls] == [asked[entry] for entry in (1, 4, 6)]
    assert {call.prompt for call in predictor.calls} == {Prompt.SOURCE}


def test_nothing_added_is_no_map():
    with pytest.raises(ValueError, match="no map"):
        ColumnMaps([(1,)]).mean()


def test_a_model_that_fails_is_named():
    failing = FailingNoise(LinearNoise(torch.eye(96, dtype=torch.float64)), 1)
    with pytest.raises(NotFinite, match="step 2 of 2"):
        word_maps(make(SCHEDULES["official_schedule"]), failing, WORDS, (3, 5))


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [(50, 5, (12, 16, 20, 24, 28)), (50, 1, (20,)), (1, 5, (0,)), (4, 50, (2, 3)), (2, 1, (1,))],
)
def test_the_states_looked_at_are_in_the_middle(steps, count, expected):
    schedule = official_masactrl_schedule(training_levels(), steps)
    assert word_entries(schedule, count) == expected


@pytest.mark.parametrize("schedule", SPREADS.values(), ids=SPREADS)
def test_words_are_looked_for_at_the_same_noise_under_every_schedule(schedule):
    ratios = [schedule.levels[entry].noise_ratio for entry in word_entries(schedule, 5)]
    assert len(ratios) == 5
    for ratio, expected in zip(ratios, (0.62, 0.82, 1.07, 1.41, 1.86), strict=True):
        assert ratio == pytest.approx(expected, rel=0.1)


def test_a_mask_reaches_one_and_stays_within_its_range_at_any_size():
    maps = noise(2, 3, 4, 5).square()
    masks = masks_of(maps, (37, 50))
    assert masks.shape == (2, 3, 37, 50)
    assert float(masks.min()) >= 0
    assert torch.equal(masks.amax((2, 3)), torch.ones(2, 3, dtype=masks.dtype))
    hard = masks_of(maps, (37, 50), 0.4)
    assert torch.equal(hard, (masks >= 0.4).to(masks.dtype))


def test_a_cell_is_found_where_it_is():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 2] = 0.3
    y, x = divmod(int(masks_of(maps, (32, 32)).argmax()), 32)
    assert (8 <= y < 16, 16 <= x < 24) == (True, True)


def test_a_map_of_nothing_is_black():
    assert float(masks_of(torch.zeros(1, 1, 2, 2), (8, 8)).abs().max()) == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(InvalidInput, match=f"^threshold .*{threshold}"):
        masks_of(torch.ones(1, 1, 2, 2), (4, 4), threshold)
