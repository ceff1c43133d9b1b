"""Checkers of the second scenes: true pictures are read right, wrong ones are noticed."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("scipy")

from demo.second import scenes
from demo.second.training import checkers


def test_true_pictures_are_read_without_an_error():
    rng = np.random.default_rng(0)
    for _ in range(24):
        scene = scenes.random_scene(rng)
        found = checkers.right(checkers.read_scene(scenes.render(scene)), scene)
        assert found["all"], (scenes.caption(scene), found)


@pytest.fixture
def pair():
    things = (
        scenes.Thing("ring", "red", (34.0, 60.0), 23.0, 5.0),
        scenes.Thing("cross", "blue", (92.0, 70.0), 30.0, -5.0, size="large"),
    )
    return scenes.Scene(things, "white", "dotted", (0.2, 0.7), place="left of")


def wrong(picture_of, asked):
    found = checkers.right(checkers.read_scene(scenes.render(picture_of)), asked)
    return {key for key, value in found.items() if not value} - {"all"}


def test_each_wrong_word_is_noticed(pair):
    assert wrong(pair, pair) == set()
    assert wrong(scenes.change_thing(pair, 0, colour="green"), pair) == {"colour"}
    assert wrong(scenes.change_thing(pair, 1, shape="heart"), pair) == {"shape"}
    assert wrong(scenes.change_background(pair, background="yellow"), pair) == {"background"}
    assert wrong(scenes.change_background(pair, background_type="plain"), pair) == {
        "background_type"
    }


def test_a_wrong_place_is_noticed(pair):
    assert wrong(pair, dataclasses.replace(pair, place="right of")) == {"place"}
    assert wrong(pair, dataclasses.replace(pair, place="above")) == {"place"}


def test_a_wrong_size_is_noticed(pair):
    first, second = pair.things
    asked = (dataclasses.replace(first, size="large"), dataclasses.replace(second, size="small"))
    assert wrong(pair, dataclasses.replace(pair, things=asked)) == {"size"}


def test_a_missing_object_is_noticed(pair):
    alone = dataclasses.replace(pair, things=pair.things[:1], place="")
    assert "count" in wrong(alone, pair)
    assert "count" in wrong(pair, alone)


def test_a_ragged_outline_fits_no_shape(pair):
    rng = np.random.default_rng(0)
    picture = scenes.render(pair)
    blob = rng.random((8, 8)) > 0.45
    blob[3:5, 3:5] = True
    patch = np.kron(blob, np.ones((6, 6), bool))
    picture[40:88, 10:58] = (0.96, 0.96, 0.96)
    picture[40:88, 10:58][patch] = scenes.colours["red"]
    reading = checkers.read_scene(picture)
    assert "ring" not in [thing.shape for thing in reading.things]


def test_background_is_read_without_objects(pair):
    picture = scenes.background_picture(pair)
    reading = checkers.read_scene(picture)
    assert (reading.background, reading.background_type) == ("white", "dotted")
    assert reading.things == ()
