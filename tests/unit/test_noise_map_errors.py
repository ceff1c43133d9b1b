"""Noise Map Guidance: what cannot be built, and networks that cannot be differentiated."""

import math
from dataclasses import replace

import pytest
from noise_maps import make, method, modes
from toys import DetachedNoise
from toys import edit_of as sample

from nmg_sampler import Gradient, InvalidInput, NotDifferentiable


@pytest.mark.parametrize(
    ("field", "value"),
    [("every", 0), ("every", -1), ("falloff", -0.1), ("falloff", 1.1), ("blend", -0.1)],
    ids=str,
)
def test_no_turns_and_no_share_are_refused_by_name_and_value(field, value):
    with pytest.raises(InvalidInput, match=rf"^{field} .*Got {value};"):
        method(**{field: value})


@modes
def test_a_network_cut_off_from_the_latent_is_refused_for_the_full_gradient(mode):
    with pytest.raises(NotDifferentiable, match="'full'.*remove the patch, or use .*'direct'"):
        sample(make(), DetachedNoise(), method(0.5, mode, Gradient.FULL), 5.0)


@modes
def test_a_network_cut_off_from_the_latent_will_do_for_the_direct_gradient(mode):
    result = sample(make(), DetachedNoise(), method(0.5, mode, Gradient.DIRECT), 5.0)
    assert result.isfinite().all()


@pytest.mark.parametrize("field", ["noise_map_scale", "gradient_scale", "inside", "outside"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf], ids=str)
def test_a_strength_that_is_none_is_refused_by_name_and_value(field, value):
    with pytest.raises(InvalidInput, match=rf"^{field} .*Got {value};"):
        replace(method(), **{field: value})


@pytest.mark.parametrize(
    ("start", "end"),
    [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, math.nan)],
    ids=str,
)
def test_a_window_that_is_none_is_refused_with_both_ends(start, end):
    with pytest.raises(InvalidInput, match=rf"^start and end .*Got {start} to {end};"):
        method(start=start, end=end)
