"""The pack, inside the host, against numbers recorded from the published implementation."""

import pytest
import torch
from recorded import (
    END_TOLERANCE,
    FLIPPED,
    STEP_TOLERANCE,
    difference,
    differences,
    from_recorded,
    invert,
    recorded,
    sample,
)

RUNS = ["nmg_l1", "nmg_l2", "nmg_smooth_l1"]


@pytest.mark.parametrize(
    ("name", "schedule"),
    [*[(name, "official") for name in RUNS], ("masactrl", "official-masactrl")],
)
def test_the_trajectory_is_the_recorded_one(host, name, schedule):
    data = recorded(name)
    _, trajectory = invert(host, data, schedule)
    assert difference(trajectory.states[:, 0], data["trajectory"]) < STEP_TOLERANCE


@pytest.mark.parametrize("branch", ["source", "target"])
@pytest.mark.parametrize("name", RUNS)
def test_the_end_result_is_the_recorded_one(host, name, branch):
    data = recorded(name)
    model, trajectory = invert(host, data, "official")
    got = sample(host, data, model, trajectory, branch)
    flipped, mean = differences(got, data[f"recon_{branch}"])
    assert flipped <= FLIPPED[data.parameters["loss"]]
    assert mean < END_TOLERANCE / 5


@pytest.mark.parametrize("branch", ["source", "target"])
@pytest.mark.parametrize("name", RUNS)
def test_every_single_step_from_a_recorded_state_is_the_recorded_one(host, name, branch):
    """Each step starts from the recorded state, so no difference can grow into the next."""
    library, *_ = host
    data = recorded(name)
    model, trajectory = invert(host, data, "official")
    states = data[f"recon_{branch}_states"][:, None]
    starts = torch.cat([data["trajectory"][-1:, None], states[:-1]])
    worst = 0.0
    for step in trajectory.schedule.descent():
        one_step = from_recorded(library, trajectory, data, step, starts[step.index])
        # The result is at the single step's lower level: entry 0 of its schedule.
        got = sample(host, data, model, one_step, branch)
        worst = max(worst, difference(got, states[step.index]))
    assert worst < STEP_TOLERANCE
