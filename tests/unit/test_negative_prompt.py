"""Negative-Prompt Inversion: the source prompt in the negative prompt's place, and between both."""

import math

import pytest
import torch
from toys import IDENTITY, AttentiveNoise, noise, training_levels

from nmg_sampler import (
    Branches,
    Editor,
    EditorRun,
    InvalidInput,
    PlainGuidance,
    Prompt,
    PromptEmbedding,
    Trajectory,
    invert,
    official_masactrl_schedule,
    sample,
)
from nmg_sampler.contract import Run
from nmg_sampler.methods import NegativePromptGuidance, interpolate_embeddings

SHAPE = (2, 4, 4, 4)
STEPS = 6
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SOURCE, NEGATIVE, TARGET = (noise(5, 4, seed=seed) for seed in (1, 2, 3))
LONG = noise(15, 4, seed=4)
EXACT = {"rtol": 0, "atol": 1e-12}


def network(targets, pictures=2, with_source=False, negative=NEGATIVE):
    return AttentiveNoise(SOURCE, targets, negative, Branches(pictures, len(targets), with_source))


@pytest.fixture(scope="module")
def trajectory():
    states = invert(noise(*SHAPE), SCHEDULE, network([], with_source=True))
    return Trajectory(states, SCHEDULE, IDENTITY)


def run(trajectory, guidance, targets, scale=7.5, editor=None, negative=NEGATIVE):
    predictor = network(targets, trajectory.shape[0], editor is not None, negative)
    return sample(trajectory, predictor, guidance, scale, targets=len(targets), editor=editor)


class Untouched(Editor):
    """Runs a source branch and changes nothing."""

    def begin(self, run):
        return EditorRun(run)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 9.0, 100.0])
def test_the_source_prompt_at_any_scale_is_scale_one(trajectory, scale):
    expected = run(trajectory, PlainGuidance(), [SOURCE], 1.0).edit
    got = run(trajectory, NegativePromptGuidance(), [SOURCE], scale).edit
    assert torch.equal(got, expected)


def test_the_source_row_of_an_edit_is_the_reconstruction_and_the_targets_follow(trajectory):
    both = run(trajectory, NegativePromptGuidance(), [TARGET, SOURCE], 9.0, Untouched())
    own = run(trajectory, PlainGuidance(), [SOURCE], 1.0).edit
    torch.testing.assert_close(both.source, own, **EXACT)
    torch.testing.assert_close(both.edit[2:], own, **EXACT)
    alone = run(trajectory, NegativePromptGuidance(), [TARGET], 9.0).edit
    torch.testing.assert_close(both.edit[:2], alone, **EXACT)
    # Text guidance from the source prompt, which the negative prompt has no part in.
    by_hand = run(trajectory, PlainGuidance(), [TARGET], 9.0, negative=SOURCE).edit
    torch.testing.assert_close(alone, by_hand, **EXACT)


def test_interpolation_of_one_is_text_guidance(trajectory):
    got = run(trajectory, NegativePromptGuidance(1.0), [TARGET]).edit
    assert torch.equal(got, run(trajectory, PlainGuidance(), [TARGET]).edit)


def test_two_pictures_are_what_each_is_alone(trajectory):
    guidance = NegativePromptGuidance(0.3)
    both = run(trajectory, guidance, [TARGET]).edit
    for index in range(2):
        states = trajectory.states[:, index : index + 1]
        single = run(Trajectory(states, SCHEDULE, IDENTITY), guidance, [TARGET]).edit
        torch.testing.assert_close(both[index : index + 1], single, **EXACT)


def test_prompts_of_unequal_length_give_what_their_repetitions_give(trajectory):
    guidance = NegativePromptGuidance(0.4)
    longer = run(trajectory, guidance, [TARGET], negative=LONG).edit
    twice = run(trajectory, guidance, [TARGET], negative=LONG.repeat(2, 1)).edit
    torch.testing.assert_close(twice, longer, **EXACT)
    assert torch.isfinite(longer).all()


def test_it_asks_for_nothing_but_text_guidance_does(trajectory):
    predictor = network([TARGET])
    sample(trajectory, predictor, NegativePromptGuidance(0.5), 7.5)
    assert predictor.rows == [4] * STEPS
    assert predictor.backward_passes == 0


@pytest.mark.parametrize(("interpolation", "unread"), [(0, Prompt.NEGATIVE), (1, Prompt.SOURCE)])
def test_at_an_end_the_other_prompt_is_not_read(trajectory, interpolation, unread):
    """It may have several parts, which have no embedding."""
    predictor = network([TARGET])
    read = predictor.embedding

    def embedding(prompt):
        assert prompt is not unread
        return read(prompt)

    predictor.embedding = embedding
    run = Run(predictor, trajectory, STEPS, 3.0, Branches(2))
    NegativePromptGuidance(interpolation).begin(run)


# --- Interpolation -------------------------------------------------------------------------------


def embedding(tokens, vector=None):
    return PromptEmbedding(tokens, vector)


def test_the_ends_are_the_prompts_themselves():
    source = embedding(noise(1, 5, 4, seed=1), noise(1, 3, seed=2))
    negative = embedding(noise(1, 10, 4, seed=3), noise(1, 3, seed=4))
    assert interpolate_embeddings(source, negative, 0) is source
    assert interpolate_embeddings(source, negative, 1) is negative


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
def test_tokens_go_along_the_great_circle_of_each_row(weight):
    first, second = noise(2, 5, 4, seed=1), noise(1, 5, 4, seed=2)
    got = interpolate_embeddings(embedding(first), embedding(second), weight).tokens
    for row in range(2):
        one, other = first[row].flatten(), second[0].flatten()
        angle = torch.acos(one @ other / one.norm() / other.norm())
        expected = torch.sin((1 - weight) * angle) * one + torch.sin(weight * angle) * other
        torch.testing.assert_close(got[row].flatten(), expected / torch.sin(angle), **EXACT)


def test_between_embeddings_of_equal_length_the_length_stays():
    first, second = noise(1, 5, 4, seed=1), noise(1, 5, 4, seed=2)
    second = second * first.norm() / second.norm()
    for weight in (0.2, 0.5, 0.9):
        got = interpolate_embeddings(embedding(first), embedding(second), weight).tokens
        assert float(got.norm()) == pytest.approx(float(first.norm()))


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-12, 2.0, -1.0, 0.0])
def test_where_the_circle_is_undefined_it_is_the_line(factor):
    """Equal, parallel and opposite embeddings, and one that was zeroed out."""
    first = noise(1, 5, 4, seed=1)
    for one, other in ((first, factor * first), (factor * first, first)):
        got = interpolate_embeddings(embedding(one), embedding(other), 0.25).tokens
        torch.testing.assert_close(got, 0.75 * one + 0.25 * other, rtol=0, atol=1e-10)


def test_the_vector_goes_along_the_line():
    vectors = noise(1, 3, seed=2), noise(2, 3, seed=4)
    source, negative = (embedding(noise(1, 5, 4, seed=1), vector) for vector in vectors)
    got = interpolate_embeddings(source, negative, 0.25).vector
    torch.testing.assert_close(got, 0.75 * vectors[0] + 0.25 * vectors[1], **EXACT)
    assert interpolate_embeddings(embedding(source.tokens), negative, 0.5).vector is None


def test_half_precision_is_interpolated_in_float32():
    first, second = (1000 * noise(1, 77, 64, seed=seed) for seed in (1, 2))
    got = interpolate_embeddings(embedding(first.half()), embedding(second.half()), 0.5).tokens
    exact = interpolate_embeddings(embedding(first), embedding(second), 0.5).tokens
    assert got.dtype == torch.float16
    assert float((got - exact).norm() / exact.norm()) < 1e-3


@pytest.mark.parametrize("value", [-0.1, 1.1, math.inf, math.nan])
def test_an_interpolation_out_of_range_is_refused(value):
    with pytest.raises(InvalidInput, match=f"^interpolation .*Got {value}; expected 0 to 1"):
        NegativePromptGuidance(value)
