"""Noise Map Guidance under a mask: its factors inside and outside, and the blend."""

import itertools

import pytest
import torch
from noise_maps import EXACT, SHAPE, TEXT_SCALE, begin, gradients, make, method, modes, term_of
from toys import SmoothNoise, noise
from toys import edit_of as sample

from nmg_sampler import Gradient, Mode


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
    settled = run.settle(x, steps[3], torch.zeros_like(x))
    torch.testing.assert_close(settled, x + 0.375 * (recorded - x), **EXACT)


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
