"""Second version of the scenes: one or two objects, captions, seven kinds of edits, true masks."""

import dataclasses

import numpy as np
import pytest

from demo.second import scenes


def drawn(count, seed=0, things=None):
    rng = np.random.default_rng(seed)
    return [scenes.random_scene(rng, things) for _ in range(count)]


@pytest.fixture
def pair():
    return scenes.Scene(
        things=(
            scenes.Thing("circle", "red", (35.0, 60.0), 24.0, 5.0),
            scenes.Thing("heart", "blue", (95.0, 70.0), 18.0, -5.0, size="small"),
        ),
        background="green",
        background_type="striped",
        phase=(0.2, 0.7),
        place="left of",
    )


@pytest.fixture
def lone():
    thing = scenes.Thing("square", "orange", (36.0, 66.0), 25.0, 3.0)
    return scenes.Scene((thing,), "cyan", "dotted", (0.1, 0.4), place="left")


def test_picture_has_size_type_and_range(pair):
    picture = scenes.render(pair)
    assert picture.shape == (128, 128, 3)
    assert picture.dtype == np.float32
    assert 0.0 <= picture.min() <= picture.max() <= 1.0


def test_the_generator_decides_everything():
    assert drawn(20, seed=3) == drawn(20, seed=3)
    assert drawn(20, seed=3) != drawn(20, seed=4)
    edits = [scenes.random_edit(np.random.default_rng(5), "add") for _ in range(2)]
    assert edits[0] == edits[1]


def test_drawing_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    scenes.render(drawn(1)[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_objects_stay_inside_the_frame_and_apart():
    for scene in drawn(300):
        covers = [scenes.coverage(thing) for thing in scene.things]
        for cover in covers:
            assert max(cover[:2].max(), cover[-2:].max()) == 0.0
            assert max(cover[:, :2].max(), cover[:, -2:].max()) == 0.0
        if len(covers) == 2:
            assert not ((covers[0] > 0.0) & (covers[1] > 0.0)).any()


@pytest.mark.parametrize("shape", scenes.shapes)
def test_shape_fills_its_radius_but_not_more(shape):
    cover = scenes.shape_coverage(shape, (64.0, 64.0), 40.0, 0.0)
    ys, xs = np.nonzero(cover > 0.0)
    farthest = np.hypot(xs + 0.5 - 64.0, ys + 0.5 - 64.0).max()
    assert 34.0 < farthest < 47.0
    assert 800 < cover.sum() < np.pi * 40.0**2


@pytest.mark.parametrize("shape", scenes.shapes)
def test_drawing_only_the_square_round_an_object_cuts_nothing_off(shape, monkeypatch):
    arguments = (shape, (50.3, 71.8), 30.0, 10.0)
    cover = scenes.shape_coverage(*arguments)
    monkeypatch.setattr(scenes, "_span", lambda centre, radius: (0, scenes.size_px))
    np.testing.assert_array_equal(cover, scenes.shape_coverage(*arguments))


def test_captions_tell_two_objects_apart(pair):
    assert scenes.caption(pair) == (
        "a red circle left of a small blue heart on a striped green background"
    )
    sizes = dataclasses.replace(pair, place="")
    assert "a red circle and a small blue heart" in scenes.caption(sizes)


def test_caption_of_one_object_may_say_its_place(lone):
    assert scenes.caption(lone) == "an orange square at the left on a dotted cyan background"


def test_captions_name_every_word_in_every_form(pair):
    for form in range(len(scenes.caption_forms)):
        words = scenes.caption(dataclasses.replace(pair, form=form))
        for word in ("red", "circle", "left of", "small", "blue", "heart", "green", "striped"):
            assert word in words


def test_every_caption_of_two_objects_tells_them_apart():
    for scene in drawn(200, things=2):
        first, second = scene.things
        assert (first.shape, first.colour) != (second.shape, second.colour)
        assert scene.place or {first.size, second.size} == set(scenes.sizes)


def test_place_words_are_true():
    for scene in drawn(300):
        first = scene.things[0].centre
        other = scene.things[1].centre if len(scene.things) == 2 else (64.0, 64.0)
        dx, dy = first[0] - other[0], first[1] - other[1]
        far = {"left": -dx, "right": dx, "top": -dy, "bottom": dy}
        far |= {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
        if scene.place:
            assert far[scene.place] == max(abs(dx), abs(dy))


def test_size_words_are_true():
    for scene in drawn(300):
        for thing in scene.things:
            if thing.size == "small":
                assert all(thing.radius < o.radius for o in scene.things if o is not thing)
            if thing.size == "large":
                assert all(thing.radius > o.radius for o in scene.things if o is not thing)


@pytest.mark.parametrize("kind", scenes.edit_kinds)
def test_pictures_of_an_edit_differ_inside_the_mask_and_only_there(kind):
    rng = np.random.default_rng(1)
    for _ in range(30):
        edit = scenes.random_edit(rng, kind)
        before, after = scenes.render(edit.source), scenes.render(edit.target)
        mask = scenes.mask(edit.source, edit.target)
        assert edit.kind == kind
        np.testing.assert_array_equal(before[~mask], after[~mask])
        assert (before[mask] != after[mask]).any()
        assert scenes.caption(edit.source) != scenes.caption(edit.target)


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_edit_of_an_object_changes_one_word_only(kind):
    edit = scenes.random_edit(np.random.default_rng(2), kind)
    old, new = edit.source.things[edit.thing], edit.target.things[edit.thing]
    assert dataclasses.replace(new, **{kind: getattr(old, kind)}) == old
    assert dataclasses.replace(edit.target, things=edit.source.things) == edit.source


@pytest.mark.parametrize(
    ("kind", "key"), [("background", "background"), ("pattern", "background_type")]
)
def test_edit_of_the_background_changes_one_word_only(kind, key):
    edit = scenes.random_edit(np.random.default_rng(2), kind)
    assert edit.thing is None
    assert dataclasses.replace(edit.target, **{key: getattr(edit.source, key)}) == edit.source


def test_mask_of_a_recoloured_object_spares_the_other(pair):
    edited = scenes.change_thing(pair, 0, colour="yellow")
    mask = scenes.mask(pair, edited)
    np.testing.assert_array_equal(mask, scenes.coverage(pair.things[0]) > 0.0)


def test_mask_of_a_background_edit_spares_the_objects(pair):
    mask = scenes.mask(pair, scenes.change_background(pair, background="purple"))
    inside = [scenes.coverage(thing) == 1.0 for thing in pair.things]
    assert not mask[inside[0] | inside[1]].any()
    assert mask[~(inside[0] | inside[1])].all()


def test_adding_undoes_removing(pair):
    removed = scenes.random_edit(np.random.default_rng(0), "remove", pair)
    assert len(removed.target.things) == 1
    assert removed.source.things[1 - removed.thing] == removed.target.things[0]
    np.testing.assert_array_equal(
        scenes.mask(removed.source, removed.target), scenes.mask(removed.target, removed.source)
    )


def test_adding_to_a_given_scene_keeps_the_old_object_and_finds_room():
    rng = np.random.default_rng(0)
    tried = 0
    for scene in drawn(200, things=1):
        if scene.things[0].radius > 25.0 or not scene.place:
            continue
        edit = scenes.random_edit(rng, "add", scene)
        old, new = (scenes.coverage(thing) > 0.0 for thing in edit.target.things)
        assert edit.target.things[0] == scene.things[0]
        assert not (old & new).any()
        assert max(new[:2].max(), new[-2:].max(), new[:, :2].max(), new[:, -2:].max()) == 0
        tried += 1
    assert tried > 20


def test_move_goes_to_another_place_of_the_frame(lone):
    edit = scenes.random_edit(np.random.default_rng(0), "move", lone)
    assert edit.target.place in set(scenes.places) - {"left"}
    assert edit.target.things[0].centre != lone.things[0].centre
    assert edit.target.things[0].radius == lone.things[0].radius


@pytest.mark.parametrize(
    ("kind", "needed"), [("add", "one object"), ("move", "one object"), ("remove", "two objects")]
)
def test_edit_refuses_a_scene_that_does_not_fit(kind, needed, pair, lone):
    scene = lone if kind == "remove" else pair
    with pytest.raises(ValueError, match=needed):
        scenes.random_edit(np.random.default_rng(0), kind, scene)


def test_wrong_words_are_refused_by_name(pair):
    with pytest.raises(ValueError, match="star"):
        scenes.change_thing(pair, 0, shape="star")
    with pytest.raises(ValueError, match="hides"):
        scenes.change_background(pair, background="red")
    with pytest.raises(ValueError, match="place"):
        dataclasses.replace(pair, place="left")
    with pytest.raises(ValueError, match="1 or 2"):
        dataclasses.replace(pair, things=())
    with pytest.raises(ValueError, match="form"):
        dataclasses.replace(pair, form=9)
    with pytest.raises(ValueError, match="resize"):
        scenes.random_edit(np.random.default_rng(0), "resize")
