"""The verdict: one grade, one thing to change first, and what it was read from."""

import importlib

import pytest
from doorless import doorless


@pytest.fixture(scope="module")
def verdict():
    with doorless("nodes.drawing.verdict") as module:
        yield module


@pytest.fixture
def library(verdict):
    return importlib.import_module("doorless.nmg_sampler")


@pytest.fixture
def say(verdict, library):
    def of(psnr, unheld=24.0, inverted=44.0, scale=1.5, text_scale=7.5, steps=50, **rest):
        method = rest.pop("guidance", None) or library.fused_guidance(scale, 5000.0)
        found = verdict.Findings(psnr, unheld, inverted, method, text_scale, steps, **rest)
        return verdict.verdict(found)

    return of


@pytest.mark.parametrize(
    ("psnr", "word"),
    [(21.34, "weak"), (24.9, "weak"), (25.0, "fair"), (29.9, "fair"), (30.0, "faithful")],
)
def test_the_grade_follows_the_decibels(say, psnr, word):
    assert say(psnr).startswith(f"Reconstruction {psnr:.1f} dB, {word}: ")


def test_a_faithful_one_asks_for_nothing(say):
    said = say(36.8)
    assert "nothing to change" in said
    for setting in ("noise_map_scale", "steps", "refine_iterations", "lower"):
        assert setting not in said


def test_where_text_leads_away_the_hold_is_raised_first(say):
    said = say(26.0)
    assert "fair: raise noise_map_scale (now 1.5), or lower text_scale (now 7.5)." in said
    assert "The inversion is fine" in said
    assert "without guidance 24.0 dB, at text_scale 1 44.0 dB" in said


@pytest.mark.parametrize(
    ("scale", "steps", "first"),
    [
        (3.9, 20, "raise noise_map_scale"),
        (4.0, 20, "add steps"),
        (9.0, 50, "raise noise_map_scale"),
        (10.0, 50, "add steps"),
    ],
)
def test_a_hold_that_is_high_for_the_steps_is_not_raised_further(say, scale, steps, first):
    said = say(26.0, scale=scale, steps=steps)
    assert said.split(": ", 1)[1].startswith(first)


def test_the_two_scales_count_as_one_product(say, library):
    method = library.fused_guidance(1.5, 50_000.0)
    assert "fair: add steps" in say(26.0, guidance=method)


def test_a_hold_that_does_harm_is_lowered(say):
    said = say(13.2, unheld=20.0, inverted=33.3, scale=5.0, steps=8)
    assert "weak: lower noise_map_scale (now 5), or add steps (now 8)." in said


@pytest.mark.parametrize(("steps", "first"), [(20, "add steps"), (50, "set refine_iterations")])
def test_an_inversion_that_loses_the_picture_is_mended_first(say, steps, first):
    said = say(20.0, unheld=18.0, inverted=22.0, steps=steps)
    assert f"weak: {first}" in said
    assert "source prompt" in said
    assert "The inversion itself loses the picture." in said
    assert "noise_map_scale" not in said


def test_without_guidance_it_advises_to_take_one_and_compares_with_no_other(say, library):
    said = say(24.0, unheld=24.0, guidance=library.PlainGuidance())
    assert "weak: disconnect guidance, so that Noise Map Guidance holds" in said
    assert "without guidance" not in said
    assert "at text_scale 1 44.0 dB" in said


def test_another_method_is_told_of_what_it_has_itself(say):
    said = say(26.0, guidance=object())
    assert "fair: lower text_scale (now 7.5), or take Noise Map Guidance" in said
    assert "weak: disconnect guidance" in say(20.0, guidance=object())


def test_at_text_scale_one_the_same_number_is_not_said_twice(say):
    assert "at text_scale 1" not in say(29.0, unheld=28.0, inverted=29.0, text_scale=1.0)


def test_states_that_are_no_path_ask_for_the_scale_they_were_made_with(say):
    said = say(15.6, unheld=None, inverted=None)
    assert "weak: set text_scale (now 7.5) to the source_scale of Edit-Friendly" in said
    assert "nothing to change" in say(46.0, unheld=None, inverted=None)


def test_the_vae_is_blamed_for_its_own_part_alone(say):
    said = say(36.8, original=26.7, vae=27.0)
    assert said.startswith("Reconstruction 36.8 dB, faithful")
    assert "Against the original picture itself it is 26.7 dB" in said
    assert "27.0 dB" in said
    assert "VAE" not in say(36.8)
