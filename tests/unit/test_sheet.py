"""The contact sheet: every picture in its place, every label beside it."""

import numpy as np
import pytest
from doorless import doorless


@pytest.fixture(scope="module")
def sheet():
    with doorless("nodes.drawing.sheet") as module:
        yield module


def plain_pictures(count, height=40, width=60):
    """Each of one strong colour, all different."""
    colours = [(0.2 + 0.1 * number, 0.0, 1.0) for number in range(count)]
    return [np.full((height, width, 3), colour, np.float32) for colour in colours]


def places(array, pictures):
    """(top, left) of each picture; it must be there whole, and nowhere else."""
    found = []
    for picture in pictures:
        wanted = np.round(255 * picture[0, 0]) / 255
        ys, xs = np.nonzero((np.abs(array - wanted) < 1e-4).all(-1))
        top, left = int(ys.min()), int(xs.min())
        height, width = picture.shape[:2]
        assert len(ys) == height * width
        assert (ys.max() - top + 1, xs.max() - left + 1) == (height, width)
        found.append((top, left))
    return found


def ink(array):
    """Whether there is anything but white, along a part of the sheet."""
    return bool((array < 0.9).any())


def test_pictures_stand_row_by_row_whole_and_apart(sheet):
    pictures = plain_pictures(6)
    columns, rows = sheet.Axis(["1", "2", "3"], "across"), sheet.Axis(["a", "b"], "down")
    found = places(sheet.contact_sheet(pictures, columns, rows), pictures)
    tops, lefts = sorted({top for top, _ in found}), sorted({left for _, left in found})
    assert found == [(top, left) for top in tops for left in lefts]
    assert (len(tops), len(lefts)) == (2, 3)
    assert tops[1] - tops[0] > 40
    assert min(np.diff(lefts)) > 60


def test_it_is_an_image_of_the_host(sheet):
    array = sheet.contact_sheet(plain_pictures(2), sheet.Axis(["1", "2"]))
    assert array.dtype == np.float32
    assert array.ndim == 3
    assert array.shape[2] == 3
    assert 0 <= array.min() < array.max() == 1


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_each_label_stands_over_its_own_column_alone(sheet, changed):
    pictures, labels = plain_pictures(3), ["1", "1", "1"]
    before = sheet.contact_sheet(pictures, sheet.Axis(labels))
    labels[changed] = "8"
    after = sheet.contact_sheet(pictures, sheet.Axis(labels))
    ys, xs = np.nonzero((before != after).any(-1))
    top, left = places(after, pictures)[changed]
    assert ys.max() < top
    assert left <= xs.min()
    assert xs.max() < left + 60


@pytest.mark.parametrize("changed", [0, 1])
def test_each_label_stands_before_its_own_row_alone(sheet, changed):
    pictures, labels = plain_pictures(2), ["0.1", "0.1"]
    across = sheet.Axis(["x"])
    before = sheet.contact_sheet(pictures, across, sheet.Axis(labels))
    labels[changed] = "0.7"
    after = sheet.contact_sheet(pictures, across, sheet.Axis(labels))
    ys, xs = np.nonzero((before != after).any(-1))
    top, left = places(after, pictures)[changed]
    assert xs.max() < left
    assert top <= ys.min()
    assert ys.max() < top + 40


def test_titles_stand_outside_the_labels(sheet):
    pictures = plain_pictures(4)
    columns, rows = sheet.Axis(["1", "2"]), sheet.Axis(["a", "b"])
    bare = sheet.contact_sheet(pictures, columns, rows)
    titled = sheet.contact_sheet(
        pictures, columns._replace(title="across"), rows._replace(title="down")
    )
    taller, wider = (titled.shape[side] - bare.shape[side] for side in (0, 1))
    assert taller > 0
    assert wider > 0
    np.testing.assert_array_equal(titled[taller + 4 :, wider + 4 :], bare[4:, 4:])
    assert ink(titled[: taller + 4])
    assert ink(titled[:, : wider + 4])


def test_without_labels_there_is_no_room_for_them(sheet):
    pictures = plain_pictures(2)
    array = sheet.contact_sheet(pictures, sheet.Axis(["", ""]))
    (top, left), _ = places(array, pictures)
    assert top == left
    assert array.shape == (40 + 2 * top, 2 * 60 + 3 * left, 3)


@pytest.mark.parametrize("length", [20, 200])
def test_text_that_is_too_long_gets_smaller_and_covers_no_picture(sheet, length):
    pictures = plain_pictures(4)
    words = "W" * length
    axis = sheet.Axis([words, words], words)
    array = sheet.contact_sheet(pictures, axis, axis)
    found = places(array, pictures)
    assert found[0][1] <= 2.5 * 60


def test_text_that_is_too_long_is_not_cut_off(sheet):
    pictures = plain_pictures(1)
    array = sheet.contact_sheet(pictures, sheet.Axis(["W" * 20]))
    ((top, left),) = places(array, pictures)
    label = array[:top, left : left + 60]
    assert ink(label)
    assert not ink(label[:, [0, -1]])


def test_text_grows_with_the_pictures(sheet):
    def height_of_label(longer):
        pictures = plain_pictures(1, longer, longer)
        array = sheet.contact_sheet(pictures, sheet.Axis(["0"]))
        ((top, _),) = places(array, pictures)
        return np.ptp(np.nonzero((array[:top] < 0.5).any((1, 2)))[0])

    assert height_of_label(512) > 3 * height_of_label(128)


@pytest.mark.parametrize(("shape", "expected"), [((30, 60), (45, 90)), ((7, 3), (90, 39))])
def test_fit_keeps_the_shape_of_a_picture(sheet, shape, expected):
    picture = np.random.default_rng(0).random((*shape, 3), np.float32)
    fitted = sheet.fit(picture, 90)
    assert fitted.shape == (*expected, 3)
    assert fitted.dtype == np.float32
    assert abs(fitted.mean() - picture.mean()) < 0.02


def test_fit_leaves_a_picture_of_the_right_size_as_it_is(sheet):
    picture = np.random.default_rng(0).random((20, 10, 3), np.float32)
    np.testing.assert_allclose(sheet.fit(picture, 20), picture, atol=0.5 / 255)
    np.testing.assert_array_equal(sheet.fit(picture - 2, 20), np.zeros_like(picture))
