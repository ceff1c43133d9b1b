"""The way back along its own trajectory, and how far each step is from it."""

import pytest
import torch
from toys import IDENTITY, ConstantNoise, SmoothNoise, geometric_sigmas, noise, training_levels

from nmg_sampler import (
    InvalidInput,
    PlainGuidance,
    Trajectory,
    fused_guidance,
    invert,
    official_guidance,
    official_schedule,
    sample,
    schedule_from_sigmas,
)
from nmg_sampler.looks import follow

SHAPE = (2, 3, 4, 4)
SCHEDULES = {
    "own": schedule_from_sigmas("x", geometric_sigmas(8)),
    # Starts sampling below its last level: relabels the state it starts from.
    "official": official_schedule(training_levels(), 8),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
METHODS = [PlainGuidance(), fused_guidance(10.0, 5000.0), official_guidance(10.0, 5000.0)]


def make(schedule=SCHEDULES["own"], predictor=None):
    states = invert(noise(*SHAPE), schedule, predictor or SmoothNoise())
    return Trajectory(states.detach(), schedule, IDENTITY)


def apart(a, b):
    """(B,) root mean square of the differences, written out."""
    return torch.stack([((x - y) ** 2).mean().sqrt() for x, y in zip(a, b, strict=True)]).float()


@each_schedule
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_it_ends_where_sampling_ends_and_measures_every_state_on_the_way(schedule, method):
    trajectory, reached = make(schedule), []
    found = follow(trajectory, SmoothNoise(), method, 3.0, on_step=reached.append)
    alone = sample(trajectory, SmoothNoise(), method, 3.0)
    assert torch.equal(found.latent, alone.edit)
    steps = schedule.descent()
    assert [event.index for event in reached] == list(range(len(steps)))
    assert found.distances.shape == (len(steps) + 1, SHAPE[0])
    assert found.distances.dtype == torch.float32
    states = trajectory.states
    torch.testing.assert_close(found.distances[0], apart(states[-1], states[steps[0].entry]))
    for event, step, distance in zip(reached, steps, found.distances[1:], strict=True):
        torch.testing.assert_close(distance, apart(event.x, states[step.entry_to]))


def test_a_step_that_is_its_own_inverse_stays_on_the_trajectory():
    trajectory = make(predictor=ConstantNoise(noise(1, 3, 4, 4, seed=1)))
    predictor = ConstantNoise(noise(1, 3, 4, 4, seed=1))
    found = follow(trajectory, predictor, PlainGuidance(), 7.5)
    assert found.distances.max() < 1e-6


def test_each_sample_has_a_distance_of_its_own():
    trajectory = make(predictor=ConstantNoise(torch.zeros(1, 3, 4, 4)))
    states = trajectory.states.clone()
    states[:-1, 1] += 2.0  # of the second sample every state but the one sampling starts from
    moved = Trajectory(states, trajectory.schedule, IDENTITY)
    found = follow(moved, ConstantNoise(torch.zeros(1, 3, 4, 4)), PlainGuidance(), 1.0)
    assert found.distances[1:, 0].max() < 1e-6
    torch.testing.assert_close(found.distances[1:, 1], torch.full((8,), 2.0))


def test_a_scale_that_is_none_is_refused_as_by_sampling():
    with pytest.raises(InvalidInput, match="text_scale leaves its range"):
        follow(make(), SmoothNoise(), PlainGuidance(), -1.0)
