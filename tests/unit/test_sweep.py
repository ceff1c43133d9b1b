"""Settings on a grid: which there are, in which order, and what is refused."""

from dataclasses import dataclass

import pytest

import nmg_sampler
from nmg_sampler import (
    DirectInversion,
    FlowEdit,
    Guidance,
    InvalidInput,
    NegativePromptGuidance,
    NullTextGuidance,
    PlainGuidance,
    ProximalGuidance,
    Threshold,
    fused_guidance,
    official_guidance,
)
from nmg_sampler.methods import (
    METHODS,
    MOST_CELLS,
    Setting,
    Swept,
    parameters_of,
    parse_values,
    sweep_parameters,
    sweep_settings,
)

NMG = fused_guidance(1.5, 5000.0)


def grid(rows, columns, guidance=NMG, text_scale=3.0):
    return sweep_settings(guidance, text_scale, Swept(*rows), Swept(*columns))


def refused(words, call, *arguments):
    with pytest.raises(InvalidInput) as raised:
        call(*arguments)
    for word in (*words, "Got ", "expected "):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1.5, 3, 7.5", [1.5, 3.0, 7.5]),
        ("3", [3.0]),
        ("\n-1,2e2 ,\t.5 ", [-1.0, 200.0, 0.5]),
    ],
)
def test_numbers_are_read_in_their_order(text, values):
    assert parse_values("row_values", text) == values


@pytest.mark.parametrize("text", ["", "  ", "1,,2", "1, 2,", "a", "1 2", "nan", "1, inf", "1;2"])
def test_what_is_no_number_is_refused_with_what_was_written(text):
    refused(["column_values", repr(text)], parse_values, "column_values", text)


def test_the_grid_goes_row_by_row():
    settings = grid(("noise_map_scale", [0.0, 5.0]), ("text_scale", [3.0, 5.0, 7.5]))
    assert settings == [
        Setting(fused_guidance(scale, 5000.0), text)
        for scale in (0.0, 5.0)
        for text in (3.0, 5.0, 7.5)
    ]


def test_rows_and_columns_can_be_exchanged():
    down = grid(("text_scale", [1.0, 2.0]), ("every", [1.0, 3.0]))
    across = grid(("every", [1.0, 3.0]), ("text_scale", [1.0, 2.0]))
    assert [down[i] for i in (0, 2, 1, 3)] == across


def test_what_is_not_swept_stays():
    base = official_guidance(10.0, 4000.0)
    (setting,) = grid(("start", [0.2]), ("end", [0.8]), base, 7.5)
    assert setting.text_scale == 7.5
    assert (setting.guidance.start, setting.guidance.end) == (0.2, 0.8)
    assert (setting.guidance.mode, setting.guidance.scale) == (base.mode, base.scale)


def test_two_parameters_that_are_judged_together_are_set_together():
    """One after the other, start 0.7 would meet end 0.5."""
    half = grid(("end", [0.5]), ("start", [0.0]))[0].guidance
    assert grid(("start", [0.7]), ("end", [1.0]), half)[0].guidance.start == 0.7


def test_a_whole_number_of_a_method_stays_one():
    method = ProximalGuidance(Threshold.HARD)
    (setting,) = grid(("dilate", [2.0]), ("quantile", [0.3]), method)
    assert setting.guidance == ProximalGuidance(Threshold.HARD, 0.3, dilate=2)
    assert isinstance(setting.guidance.dilate, int)


def test_a_method_that_this_file_does_not_know_can_be_swept():
    @dataclass(frozen=True)
    class Later(Guidance):
        mood: str = "calm"
        depth: int = 1
        share: float = 0.5
        loud: bool = False

    assert parameters_of(Later) == {"text_scale": float, "depth": int, "share": float}
    (setting,) = grid(("depth", [3.0]), ("share", [0.1]), Later())
    assert setting.guidance == Later(depth=3, share=0.1)
    assert sweep_parameters([PlainGuidance, Later]) == ["text_scale", "depth", "share"]


def test_a_method_without_numbers_leaves_the_text_scale():
    assert list(parameters_of(PlainGuidance)) == ["text_scale"]


def test_a_method_made_for_one_text_scale_lets_none_be_swept():
    assert parameters_of(NullTextGuidance) == {}


def test_the_parameters_of_nmg_come_first_and_each_once():
    names = sweep_parameters(METHODS)
    assert names[:3] == ["text_scale", "noise_map_scale", "gradient_scale"]
    assert len(set(names)) == len(names)
    assert {"interpolation", "quantile", "strength", "dilate"} <= set(names)


def test_every_method_of_the_library_is_listed_or_waits_for_its_node():
    methods = {
        value
        for value in vars(nmg_sampler.methods).values()
        if isinstance(value, type) and issubclass(value, Guidance) and value is not Guidance
    }
    assert methods - {*METHODS} == {FlowEdit}


@pytest.mark.parametrize("guidance", [DirectInversion(), NegativePromptGuidance()], ids=repr)
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_a_parameter_the_method_lacks_is_refused_with_those_it_has(guidance, side):
    axes = {"rows": ("text_scale", [3.0]), "columns": ("text_scale", [3.0])}
    axes[side] = ("noise_map_scale", [1.0])
    known = [repr(name) for name in parameters_of(type(guidance))]
    assert len(known) > 1
    refused([side, "'noise_map_scale'", *known], grid, axes["rows"], axes["columns"], guidance)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("noise_map_scale", -1.0, ["noise_map_scale", "-1.0"]),
        ("text_scale", -0.5, ["text_scale", "-0.5"]),
        ("falloff", 1.1, ["falloff", "1.1"]),
        ("start", 1.0, ["start", "1.0 to 1.0"]),
        ("every", 0.0, ["every", "0"]),
        ("every", 1.5, ["every", "1.5", "whole number"]),
    ],
)
def test_a_value_out_of_range_is_refused_wherever_it_stands(name, value, words):
    swept, other = (name, [0.5 if name != "every" else 1.0, value]), ("gradient_scale", [1.0, 2.0])
    refused(words, grid, swept, other)
    refused(words, grid, other, swept)


def test_one_parameter_on_both_sides_is_refused():
    refused(["'end'", "single value"], grid, ("end", [0.5]), ("end", [1.0]))


def test_cells_are_limited():
    most = [float(value) for value in range(8)]
    sides = ("text_scale", most), ("noise_map_scale", most)
    assert len(grid(*sides)) == MOST_CELLS == 64
    refused(["8 x 9 = 72", "64"], grid, sides[0], ("noise_map_scale", [*most, 8.0]))
