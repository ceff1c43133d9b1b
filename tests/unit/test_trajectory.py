"""The trajectory value: frozen, checked, and picky about its model."""

import dataclasses
import math

import pytest
from toys import IDENTITY, noise

from nmg_sampler import Family, InvalidInput, Trajectory, TrajectoryMismatch, schedule_from_sigmas

SCHEDULE = schedule_from_sigmas("x", [5.0, 1.0, 0.25])


def make(**changes):
    """A trajectory of three states of two samples."""
    return Trajectory(
        **{"states": noise(3, 2, 3, 4, 4), "schedule": SCHEDULE, "model": IDENTITY} | changes
    )


@pytest.mark.parametrize("field", ["states", "schedule", "model", "source", "noise_mask"])
def test_no_field_can_be_set_again(field):
    trajectory = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(trajectory, field, None)


def test_the_shape_is_that_of_one_state():
    assert make().shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("states", "got"),
    [
        (noise(2, 2, 3, 4, 4), r"\(2, 2, 3, 4, 4\)"),
        (noise(4, 2, 3, 4, 4), r"\(4, 2, 3, 4, 4\)"),
        (noise(3, 4), r"\(3, 4\)"),
    ],
    ids=["too few", "too many", "no batch"],
)
def test_states_that_do_not_fit_the_schedule_are_refused_with_their_shape(states, got):
    with pytest.raises(InvalidInput, match=rf"^trajectory states .*Got {got}; expected \(3, batch"):
        make(states=states)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_states_that_are_not_finite_are_refused(value):
    states = noise(3, 2, 3, 4, 4)
    states[1, 0, 0, 0, 0] = value
    with pytest.raises(InvalidInput, match="^trajectory states are not finite"):
        make(states=states)


def test_the_model_it_was_made_with_fits():
    make().check_fits(dataclasses.replace(IDENTITY))


DIFFERENCES = [
    ({"family": Family.FLOW}, ["family: trajectory 'vp', model 'flow'"]),
    ({"prediction": "v"}, ["prediction: trajectory 'eps', model 'v'"]),
    ({"latent_format": "SDXL"}, ["latent format: trajectory 'SD15', model 'SDXL'"]),
    ({"fingerprint": "ffff"}, ["fingerprint: trajectory '0123abcd', model 'ffff'"]),
    (
        {"latent_format": "SDXL", "fingerprint": "ffff"},
        ["latent format: trajectory 'SD15', model 'SDXL'", "model 'ffff'"],
    ),
]


@pytest.mark.parametrize(
    ("changes", "parts"), DIFFERENCES, ids=["+".join(changes) for changes, _ in DIFFERENCES]
)
def test_another_model_is_refused_with_each_difference_and_both_values(changes, parts):
    with pytest.raises(TrajectoryMismatch) as caught:
        make().check_fits(dataclasses.replace(IDENTITY, **changes))
    assert all(part in str(caught.value) for part in parts)
    # Nothing that agrees is named.
    named = {
        field for field in vars(IDENTITY) if field.replace("_", " ") + ":" in str(caught.value)
    }
    assert named == set(changes)


def test_a_mismatch_can_be_caught_as_a_wrong_value():
    with pytest.raises(ValueError, match="trajectory"):
        make().check_fits(dataclasses.replace(IDENTITY, prediction="v"))
