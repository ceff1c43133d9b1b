"""Scenes: pictures, captions, edits, masks, and the checkers that read pictures back."""

import numpy as np
import pytest

from demo import scenes


@pytest.fixture
def scene():
    return scenes.Scene(
        "star", "red", "blue", "striped", (60.0, 66.0), 40.0, 5.0, (0.2, 0.7), form=0
    )


def test_picture_has_size_type_and_range(scene):
    picture = scenes.render(scene)
    assert picture.shape == (128, 128, 3)
    assert picture.dtype == np.float32
    assert 0.0 <= picture.min() <= picture.max() <= 1.0


def test_same_generator_state_gives_same_scene():
    first = [scenes.random_scene(np.random.default_rng(3)) for _ in range(2)]
    assert first[0] == first[1]


def test_drawing_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    scenes.render(scenes.random_scene(np.random.default_rng(0)))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_random_objects_stay_inside_the_frame():
    rng = np.random.default_rng(0)
    for _ in range(100):
        cover = scenes.coverage(scenes.random_scene(rng))
        rim = np.concatenate([cover[:2].ravel(), cover[-2:].ravel(), cover[:, :2].ravel()])
        assert rim.max() == 0.0
        assert cover[:, -2:].max() == 0.0


@pytest.mark.parametrize("shape", scenes.shapes)
def test_shape_fills_its_radius_but_not_more(shape):
    cover = scenes.shape_coverage(shape, (64.0, 64.0), 40.0, 0.0)
    ys, xs = np.nonzero(cover > 0.0)
    farthest = np.hypot(xs + 0.5 - 64.0, ys + 0.5 - 64.0).max()
    assert 34.0 < farthest < 47.0
    assert 800 < cover.sum() < np.pi * 40.0**2


def test_caption_names_every_attribute_in_every_form(scene):
    for form in range(len(scenes.caption_forms)):
        words = scenes.caption(scenes.Scene(**{**vars(scene), "form": form}))
        for word in ("star", "red", "blue", "striped"):
            assert word in words


def test_caption_has_the_right_article(scene):
    orange = scenes.edit(scene, "colour", "orange")
    assert scenes.caption(orange).startswith("an orange star")
    assert scenes.caption(scene).startswith("a red star")


def test_edit_changes_one_word_only(scene):
    edited = scenes.edit(scene, "colour", "yellow")
    assert vars(edited) == {**vars(scene), "colour": "yellow"}


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("shape", "circle"),
        ("colour", "yellow"),
        ("background", "green"),
        ("background_type", "dotted"),
    ],
)
def test_pictures_differ_only_inside_the_mask(scene, attribute, value):
    edited = scenes.edit(scene, attribute, value)
    allowed = scenes.mask(scene, edited)
    different = np.abs(scenes.render(scene) - scenes.render(edited)).max(axis=-1) > 0.0
    assert different.any()
    assert not (different & ~allowed).any()


def test_object_mask_and_background_mask_meet_only_at_the_edge(scene):
    of_object = scenes.mask(scene, scenes.edit(scene, "colour", "yellow"))
    of_background = scenes.mask(scene, scenes.edit(scene, "background", "green"))
    cover = scenes.coverage(scene)
    np.testing.assert_array_equal(of_object & of_background, (cover > 0.0) & (cover < 1.0))
    assert (of_object | of_background).all()


def test_unchanged_scene_has_an_empty_mask(scene):
    assert not scenes.mask(scene, scene).any()


def test_background_of_the_object_colour_is_refused(scene):
    with pytest.raises(ValueError, match="background.*'red'"):
        scenes.edit(scene, "background", "red")


@pytest.mark.parametrize(
    ("attribute", "value"), [("shape", "blob"), ("colour", "mauve"), ("size", "big")]
)
def test_unknown_words_are_refused(scene, attribute, value):
    with pytest.raises(ValueError, match="blob|mauve|size"):
        scenes.edit(scene, attribute, value)


def test_unknown_caption_form_is_refused(scene):
    with pytest.raises(ValueError, match="form.*99"):
        scenes.Scene(**{**vars(scene), "form": 99})


def test_checkers_read_true_pictures():
    checkers = pytest.importorskip("demo.training.checkers", reason="the checkers need scipy")
    rng = np.random.default_rng(11)
    for _ in range(25):
        scene = scenes.random_scene(rng)
        reading = checkers.read_scene(scenes.render(scene))
        for attribute in ("shape", "colour", "background", "background_type"):
            assert getattr(reading, attribute) == getattr(scene, attribute), scene


def test_checkers_with_known_geometry_agree(scene):
    checkers = pytest.importorskip("demo.training.checkers", reason="the checkers need scipy")
    picture, inside = scenes.render(scene), scenes.coverage(scene) > 0.5
    assert checkers.object_colour(picture, inside) == "red"
    assert checkers.background_colour(picture, inside) == "blue"
    assert checkers.background_type(picture, inside) == "striped"


def test_checkers_see_no_object_on_a_bare_background(scene):
    checkers = pytest.importorskip("demo.training.checkers", reason="the checkers need scipy")
    reading = checkers.read_scene(scenes.background_picture(scene))
    assert (reading.shape, reading.colour) == ("none", "none")
    assert reading.background == "blue"
