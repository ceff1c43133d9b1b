"""MasaCtrl with Noise Map Guidance, inside the host, against numbers from the published code."""

import importlib
import json

import pytest
from recorded import END_TOLERANCE, FLIPPED, differences, invert, recorded, sample


@pytest.fixture(scope="module")
def masactrl(pack):
    return importlib.import_module("nmg_pack.nmg_sampler.editors.masactrl").MasaCtrl


def settings():
    controller = json.loads(recorded("masactrl").parameters["controller"])
    return controller["start_step"], controller["start_layer"]


def run(host, editor):
    """For each branch, source and target: (share of elements out of tolerance, rms difference)."""
    data = recorded("masactrl")
    model, trajectory = invert(host, data, "official-masactrl")
    got = sample(host, data, model, trajectory, "target", editor)
    return [differences(*branch) for branch in zip(got, data["masactrl"], strict=True)]


def test_source_and_target_are_the_recorded_ones(host, masactrl):
    loss = recorded("masactrl").parameters["loss"]
    for flipped, mean in run(host, masactrl(*settings())):
        assert flipped <= FLIPPED[loss]
        assert mean < END_TOLERANCE / 5


@pytest.mark.parametrize(("later_step", "later_layer"), [(1, 0), (0, -1), (0, 1)])
def test_another_step_or_layer_is_not_what_was_recorded(host, masactrl, later_step, later_layer):
    """So the numbers do tell whether both are counted right."""
    step, layer = settings()
    source, target = run(host, masactrl(step + later_step, layer + later_layer))
    assert source[0] <= FLIPPED[recorded("masactrl").parameters["loss"]]
    assert target[0] > 0.5
