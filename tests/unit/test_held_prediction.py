"""The corrected prediction alone: any loop that steps along it is held as `sample` is."""

import math

import pytest
import torch
from toys import (
    IDENTITY,
    AttentiveNoise,
    FailingNoise,
    SmoothNoise,
    edit_of,
    geometric_sigmas,
    noise,
)

from nmg_sampler import (
    Branches,
    DirectInversion,
    EditFriendly,
    Gradient,
    HeldPrediction,
    InvalidInput,
    Mode,
    NegativePromptGuidance,
    NoiseMapGuidance,
    NotFinite,
    PlainGuidance,
    ProximalGuidance,
    Trajectory,
    fused_guidance,
    invert,
    official_guidance,
    schedule_from_sigmas,
)

SHAPE = (2, 3, 4, 4)
SCHEDULE = schedule_from_sigmas("x", geometric_sigmas(8))
SCALES = (10.0, 5000.0)
FUSED_FULL = NoiseMapGuidance(*SCALES, Mode.FUSED, Gradient.FULL)
METHODS = {
    "plain": PlainGuidance(),
    "fused direct": fused_guidance(*SCALES),
    "fused full": FUSED_FULL,
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def make():
    states = invert(noise(*SHAPE), SCHEDULE, SmoothNoise())
    return Trajectory(states, SCHEDULE, IDENTITY)


def euler(trajectory, held, rows=1):
    """The state at the lowest level by Euler steps in x / alpha."""
    steps = trajectory.schedule.descent()
    x_k = trajectory.states[-1].repeat(rows, 1, 1, 1) / steps[0].level.alpha
    for step in steps:
        eps = held(x_k * step.level.alpha, step)
        x_k = x_k + (step.level_to.k_sigma - step.level.k_sigma) * eps
    return x_k * steps[-1].level_to.alpha


@methods
@pytest.mark.parametrize("text_scale", [1.0, 5.0])
@pytest.mark.parametrize("masked", [False, True])
def test_euler_steps_along_it_are_what_sample_does(method, text_scale, masked):
    if masked and method == PlainGuidance():
        pytest.skip("is refused: see below")
    trajectory, predictor = make(), SmoothNoise(0.5)
    mask = noise(SHAPE[0], 1, *SHAPE[2:], seed=4).abs().clamp(0, 1) if masked else None
    held = HeldPrediction(trajectory, predictor, method, text_scale, mask=mask)
    got = euler(trajectory, held)
    cost = predictor.rows
    predictor.forget()
    expected = edit_of(trajectory, predictor, method, text_scale, mask=mask)
    # Rounding of eight steps in another space.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert cost == predictor.rows


def test_several_targets_share_mask_and_trajectory():
    trajectory, branches = make_attentive()
    mask = noise(SHAPE[0], 1, *SHAPE[2:], seed=4).abs().clamp(0, 1)
    method = fused_guidance(*SCALES)

    def predictor():
        texts = [noise(5, 4, seed=seed) for seed in range(4)]
        return AttentiveNoise(texts[0], texts[1:3], texts[3], branches)

    held = HeldPrediction(trajectory, predictor(), method, 3.0, targets=2, mask=mask)
    expected = edit_of(trajectory, predictor(), method, 3.0, targets=2, mask=mask)
    torch.testing.assert_close(euler(trajectory, held, 2), expected, rtol=0, atol=1e-10)


def make_attentive():
    states = invert(noise(2, 4, 4, 4), SCHEDULE, SmoothNoise())
    return Trajectory(states, SCHEDULE, IDENTITY), Branches(2, 2)


def test_what_moves_states_is_refused_before_the_network_is_asked():
    moving = (
        official_guidance(*SCALES),
        NoiseMapGuidance(*SCALES, Mode.FUSED, Gradient.DIRECT, blend=0.5),
        DirectInversion(),
        EditFriendly(),
        ProximalGuidance(recon_strength=0.1),
    )
    predictor = SmoothNoise()
    for method in moving:
        with pytest.raises(InvalidInput, match="guidance does more than correct.*fused"):
            HeldPrediction(make(), predictor, method, 3.0)
    assert predictor.calls == []
    for method in (NegativePromptGuidance(), ProximalGuidance(recon_strength=0.0)):
        assert not method.moves_states


def test_a_mask_that_only_moved_states_could_keep_is_refused():
    mask = torch.ones(1, 1, *SHAPE[2:])
    with pytest.raises(InvalidInput, match="^mask cannot be kept to .*PlainGuidance"):
        HeldPrediction(make(), SmoothNoise(), PlainGuidance(), 3.0, mask=mask)


def test_a_bad_number_is_told_with_its_step():
    trajectory = make()
    predictor = FailingNoise(SmoothNoise(), 2, math.inf)
    held = HeldPrediction(trajectory, predictor, PlainGuidance(), 1.0)
    with pytest.raises(NotFinite, match="step 3 of 8"):
        euler(trajectory, held)


def test_a_mask_or_a_scale_that_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="text_scale leaves its range"):
        HeldPrediction(make(), SmoothNoise(), PlainGuidance(), math.nan)
    with pytest.raises(InvalidInput, match="mask does not fit"):
        HeldPrediction(make(), SmoothNoise(), PlainGuidance(), 1.0, mask=torch.ones(1, 1, 2, 2))
