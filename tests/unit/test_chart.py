"""The chart: lines where their numbers are, colours that tell them apart, round numbers on axes."""

import numpy as np
import pytest
from doorless import doorless

# Of the frame, pixels.
LEFT, RIGHT, TOP, BOTTOM = 84, 776, 84, 416


@pytest.fixture(scope="module")
def chart():
    with doorless("nodes.drawing.chart") as module:
        yield module


def draw(chart, *lines):
    return chart.line_chart("title", "across", "up", [chart.Line(*line) for line in lines])


def colour_at(array, x, y):
    """The colour of the nearest line: its name among those of the chart."""
    return tuple(int(c) for c in np.rint(255 * array[round(y), round(x)]))


def test_it_is_an_image_of_a_fixed_size_with_everything_inside_the_paper(chart):
    made = draw(chart, ("a", range(4), [0.0, 1.0, 0.5, 2.0]))
    assert made.shape == (480, 800, 3)
    assert made.dtype == np.float32
    assert (made.min() >= 0) & (made.max() == 1)
    for edge in (made[:4], made[-4:], made[:, :4], made[:, -4:]):
        assert (edge == 1).all()


def test_title_axes_and_names_stand_where_they_are_looked_for(chart):
    made = draw(chart, ("a", range(4), [0.0, 1.0, 0.5, 2.0]))
    title, across, up = made[14:38, LEFT : LEFT + 60], made[448:472, 380:480], made[200:300, 4:40]
    names = made[TOP - 36 : TOP - 8, LEFT : LEFT + 120]
    for written in (title, across, up, names):
        assert (written < 0.6).any()


def test_each_line_ends_where_its_last_number_is(chart):
    made = draw(
        chart,
        ("first", [0, 10], [0.0, 1.0]),
        ("second", [0, 10], [0.0, 0.5]),
        ("third", [0, 10], [0.0, 0.2]),
    )
    height = BOTTOM - TOP
    for value, colour in zip((1.0, 0.5, 0.2), chart._COLOURS, strict=True):
        assert colour_at(made, RIGHT, BOTTOM - value * height) == colour
        middle = (LEFT + RIGHT) / 2, BOTTOM - value / 2 * height
        assert colour_at(made, *middle) == colour


def test_numbers_below_zero_stand_below_the_axis(chart):
    made = draw(chart, ("only", [0, 10], [-1.0, -1.0]))
    assert colour_at(made, (LEFT + RIGHT) / 2, BOTTOM) == chart._COLOURS[0]


@pytest.mark.parametrize("numbers", [[0.0], [0.0, 0.0], [3.0], [1e-9, 2e-9], [5e4, 1e5]], ids=str)
def test_no_numbers_are_too_plain_to_draw(chart, numbers):
    made = draw(chart, ("only", range(len(numbers)), numbers))
    assert np.isfinite(made).all()


def test_steps_of_the_axes_are_1_2_or_5_and_not_too_many(chart):
    for least, step in ((0, 1), (1, 1), (1.1, 2), (0.03, 0.05), (0.6, 1), (21, 50), (100, 100)):
        assert chart._round_step(least) == pytest.approx(step)
    for top in (0.07, 1, 3, 49, 50, 51, 999, 1000):
        ticks = chart._Scale([0, top], 0, 100, 10, 1).ticks
        assert 2 <= len(ticks) <= 12
        assert ticks[-1][0] >= top
        assert len({words for _, words in ticks}) == len(ticks)


def test_the_same_numbers_give_the_same_picture(chart):
    line = ("only", range(3), [1.0, 2.0, 0.5])
    assert np.array_equal(draw(chart, line), draw(chart, line))
