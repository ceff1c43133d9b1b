"""The shared checks: what they let pass, and that they say whose value is wrong and what to do."""

import math
from enum import Enum

import pytest

from nmg_sampler import InvalidInput, checks


class Side(str, Enum):
    LEFT = "left"
    RIGHT = "right"


@pytest.mark.parametrize("value", ["left", Side.LEFT])
def test_a_choice_becomes_its_member(value):
    assert checks.choice("side", value, Side) is Side.LEFT


@pytest.mark.parametrize("value", ["Left", "", None, 0])
def test_a_choice_that_is_none_of_them_is_refused_with_all_of_them(value):
    with pytest.raises(InvalidInput) as caught:
        checks.choice("side", value, Side)
    said = f"side is unknown. Got {value!r}; expected 'left' or 'right'. Names are lower case."
    assert str(caught.value) == said
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (checks.share, (0, 0.5, 1)),
        (checks.strength, (0, 1, 5000.0)),
        (lambda name, value, *say: checks.count(name, value, 2, *say), (2, 3, 100)),
    ],
    ids=["share", "strength", "count"],
)
def test_what_is_in_the_range_passes_with_its_ends(check, values):
    for value in values:
        assert check("part", value) is None


@pytest.mark.parametrize("value", [-0.01, 1.01, math.inf, -math.inf, math.nan])
def test_no_share_is_refused(value):
    with pytest.raises(InvalidInput) as caught:
        checks.share("part", value, "0.3 is usual.")
    assert str(caught.value) == (
        f"part leaves its range. Got {value}; expected 0 to 1. 0.3 is usual."
    )


@pytest.mark.parametrize("value", [-0.01, math.inf, -math.inf, math.nan])
def test_no_strength_is_refused(value):
    with pytest.raises(InvalidInput) as caught:
        checks.strength("scale", value, "1 is no guidance.")
    assert str(caught.value) == (
        f"scale leaves its range. Got {value}; expected a finite number, 0 or more."
        " 1 is no guidance."
    )


@pytest.mark.parametrize("value", [1, -1, math.inf, math.nan])
def test_too_small_a_count_is_refused(value):
    with pytest.raises(InvalidInput) as caught:
        checks.count("rolls", value, 2, "5 is usual.")
    assert (
        str(caught.value) == f"rolls leaves its range. Got {value}; expected 2 or more. 5 is usual."
    )


@pytest.mark.parametrize(
    "check",
    [
        lambda: checks.choice("x", 2, Side),
        lambda: checks.share("x", 2),
        lambda: checks.strength("x", -1),
        lambda: checks.count("x", 0, 1),
    ],
)
def test_a_check_says_what_to_do_if_the_caller_does_not(check):
    with pytest.raises(InvalidInput, match=r"^x .*\. Got .*; expected .*\. [A-Z0-9].*\.$"):
        check()
