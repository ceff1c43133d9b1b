"""Proximal guidance: its threshold, its mask, its pull, and the neutral elements of each."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from toys import IDENTITY, AttentiveNoise, noise, training_levels

from nmg_sampler import (
    Branches,
    Editor,
    EditorRun,
    Guided,
    InvalidInput,
    PlainGuidance,
    Prompt,
    PromptEmbedding,
    Request,
    Trajectory,
    invert,
    official_masactrl_schedule,
    sample,
)
from nmg_sampler.contract import Run
from nmg_sampler.methods import NegativePromptGuidance, ProximalGuidance, Threshold
from nmg_sampler.trajectory import ddim_step

SHAPE = (2, 4, 4, 4)
STEPS = 6
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SOURCE, NEGATIVE, TARGET, OTHER = (noise(5, 4, seed=seed) for seed in (1, 2, 3, 4))
TEXT_SCALE = 7.5
# Everything below the threshold, or nothing.
NONE, ALL = {"quantile": 0.0, "value": 0.0}, {"quantile": 1.0}

# Float64 rounding of a whole run.
RUN = {"rtol": 0, "atol": 1e-10}

kinds = pytest.mark.parametrize("kind", Threshold, ids=lambda kind: kind.value)
scales = pytest.mark.parametrize("text_scale", [1.0, 7.5], ids=str)


class FromSource:
    """Everyone takes the source's result in every layer."""

    def wants(self, layer):
        return True

    def __call__(self, call):
        return call.branches.repeat(call.plain()[call.branches.source_rows])


class Neutral(Editor):
    """An editor that only brings the source branch, or couples everyone to it."""

    def __init__(self, attention=None):
        self.change = attention

    def begin(self, run):
        editing = EditorRun(run)
        editing.attention = lambda step: self.change
        return editing


def network(targets, branches):
    return AttentiveNoise(SOURCE, targets, NEGATIVE, branches)


def make(shape=SHAPE, **options):
    predictor = network([], Branches(shape[0], 0, True))
    return Trajectory(invert(noise(*shape), SCHEDULE, predictor), SCHEDULE, IDENTITY, **options)


def edit(trajectory, guidance, targets=(TARGET,), editor=None, text_scale=TEXT_SCALE, **options):
    """(edit, source, predictor)"""
    predictor = network(targets, Branches(trajectory.shape[0], len(targets), editor is not None))
    result = sample(
        trajectory,
        predictor,
        guidance,
        text_scale,
        targets=len(targets),
        editor=editor,
        **options,
    )
    return result.edit, result.source, predictor


def begin(guidance, trajectory, text_scale=TEXT_SCALE, mask=None, with_source=False):
    """The method at work, its predictor and the steps of its run."""
    branches = Branches(trajectory.shape[0], 1, with_source)
    predictor = network([TARGET], branches)
    run = Run(predictor, trajectory, STEPS, text_scale, branches, mask)
    return guidance.begin(run), predictor, SCHEDULE.descent()


def reconstruction(trajectory):
    """Plain DDIM under the source prompt, at text scale 1."""
    return edit(trajectory, PlainGuidance(), [SOURCE], text_scale=1.0)[0]


# --- The threshold -------------------------------------------------------------------------------


def test_soft_takes_the_threshold_off_and_hard_leaves_what_is_above():
    delta = noise(*SHAPE)
    soft, hard = (ProximalGuidance(kind, 0.0, 0.8).shrink(delta) for kind in Threshold)
    assert torch.equal(soft.abs(), (delta.abs() - 0.8).clamp(min=0))
    above = delta.abs() > 0.8
    assert above.any()
    assert not above.all()
    assert torch.equal(hard, delta * above)


@kinds
@pytest.mark.parametrize("limit", [0.0, 0.3, 1.0, 1.7])
def test_no_sign_turns_round_and_nothing_grows(kind, limit):
    """The published 'l1' turns those just above the threshold."""
    delta = torch.linspace(-3, 3, 400, dtype=torch.float64).reshape(1, 4, 10, 10)
    kept = ProximalGuidance(kind, 0.0, limit).shrink(delta)
    assert (kept * delta >= 0).all()
    assert (kept.abs() <= delta.abs()).all()


@pytest.mark.parametrize("share", [0.0, 0.07, 0.25, 0.7, 0.999, 1.0])
def test_the_quantile_is_the_share_of_a_sample_that_is_left_out(share):
    delta = noise(3, 4, 5, 5)  # 100 elements each
    kept = ProximalGuidance(Threshold.HARD, share).shrink(delta)
    assert ((kept == 0).flatten(1).sum(1) == math.ceil(share * 100 - 1e-6)).all()


def test_it_lies_within_one_element_of_the_interpolated_quantile():
    delta = noise(1, 4, 8, 8)
    kept = ProximalGuidance(Threshold.HARD, 0.7).shrink(delta)
    limit = torch.quantile(delta.abs().flatten(), 0.7)
    assert abs(int((kept == 0).sum()) - int((delta.abs() <= limit).sum())) <= 1


def test_a_source_row_of_zeros_would_dilute_the_quantile_as_published():
    """q over both rows is 2 q - 1 of the target: the conversion of the docstring."""
    target = noise(1, 4, 8, 8).abs()
    both = torch.cat([torch.zeros_like(target), target])
    for published in (0.7, 0.75, 0.9):
        limit = torch.quantile(both.flatten(), published)
        kept = ProximalGuidance(Threshold.HARD, 2 * published - 1).shrink(target)
        assert abs(int((kept == 0).sum()) - int((target <= limit).sum())) <= 1


def test_the_value_is_the_least_threshold():
    delta = noise(*SHAPE)
    by_value, by_quantile = ProximalGuidance(quantile=0.2), ProximalGuidance(quantile=0.9)
    floor = replace(by_value, value=0.9)
    assert torch.equal(floor.shrink(delta), replace(floor, quantile=0.0).shrink(delta))
    assert torch.equal(replace(by_quantile, value=1e-3).shrink(delta), by_quantile.shrink(delta))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_and_its_dtype_stay(dtype):
    kept = ProximalGuidance().shrink(noise(*SHAPE, dtype=dtype))
    assert kept.dtype == dtype
    assert (kept == 0).any()


def test_threshold_and_quantile_of_a_sample_are_its_own():
    delta = torch.cat([noise(1, 4, 5, 5), 100 * noise(1, 4, 5, 5, seed=1)])
    kept = ProximalGuidance(Threshold.HARD).shrink(delta)
    assert ((kept == 0).flatten(1).sum(1) == 70).all()


# --- The prediction ------------------------------------------------------------------------------


@kinds
@scales
@pytest.mark.parametrize("with_source", [False, True], ids=["alone", "with an editor"])
def test_the_step_follows_the_source_prompt_plus_the_scaled_prox(kind, text_scale, with_source):
    trajectory, guidance = make(), ProximalGuidance(kind, 0.6)
    run, predictor, steps = begin(guidance, trajectory, text_scale, with_source=with_source)
    step = steps[2]
    x = noise(4 if with_source else 2, *SHAPE[1:], seed=5)
    prepared = run.prepare(x, step)
    guided = predictor.guided(Request(x, step.level, text_scale, embedding=prepared.embedding))
    eps = run.correct(x, step, guided)
    # The two predictions of the target, asked for by themselves.
    target = x[-2:]
    source = predictor.eps(
        target, step.level, Prompt.NEGATIVE, embedding=PromptEmbedding(SOURCE[None])
    )
    delta = predictor.eps(target, step.level, Prompt.POSITIVE) - source
    expected = source + text_scale * guidance.shrink(delta)
    # Float64 rounding, times the text scale.
    torch.testing.assert_close(eps[-2:], expected, rtol=0, atol=1e-12)
    if with_source:
        assert torch.equal(eps[:2], guided.eps[:2])


@kinds
@scales
@pytest.mark.parametrize("editor", [None, Neutral(FromSource())], ids=["alone", "with an editor"])
def test_a_threshold_of_zero_is_negative_prompt_inversion_bit_for_bit(kind, text_scale, editor):
    trajectory = make()
    guidance = ProximalGuidance(kind, **NONE, recon_strength=0.0)
    ours, npi = (
        edit(trajectory, method, editor=editor, text_scale=text_scale)[:2]
        for method in (guidance, NegativePromptGuidance())
    )
    assert torch.equal(ours[0], npi[0])
    assert editor is None or torch.equal(ours[1], npi[1])


def test_where_everything_is_edited_nothing_is_drawn():
    trajectory, everything = make(), ProximalGuidance(**NONE, recon_strength=1.0, recon_start=0.0)
    npi = edit(trajectory, NegativePromptGuidance())[0]
    assert torch.equal(edit(trajectory, everything)[0], npi)


@kinds
@pytest.mark.parametrize("text_scale", [0.0, 1.0, 7.5], ids=str)
@pytest.mark.parametrize("threshold", [ALL, {"quantile": 0.0, "value": 1e3}], ids=["q", "value"])
def test_a_threshold_above_the_edit_is_the_reconstruction(kind, text_scale, threshold):
    trajectory = make()
    guidance = ProximalGuidance(kind, **threshold, recon_strength=0.0)
    for editor in (None, Neutral()):
        edits, source, _ = edit(trajectory, guidance, editor=editor, text_scale=text_scale)
        torch.testing.assert_close(edits, reconstruction(trajectory), **RUN)
        if source is not None:
            torch.testing.assert_close(source, reconstruction(trajectory), **RUN)


def test_between_them_lies_another_edit():
    trajectory = make()
    results = [
        edit(trajectory, ProximalGuidance(kind, q, recon_strength=0.0))[0]
        for kind, q in itertools.product(Threshold, (0.0, 0.7, 1.0))
    ]
    assert torch.equal(results[0], results[3])
    differences = [
        (one - other).abs().max()
        for one, other in itertools.combinations(
            [results[0], results[1], results[2], results[4]], 2
        )
    ]
    assert min(differences) > 1e-3


def test_the_source_branch_of_an_edit_is_the_reconstruction():
    trajectory = make()
    _, source, _ = edit(
        trajectory, ProximalGuidance(recon_strength=0.0), editor=Neutral(FromSource())
    )
    torch.testing.assert_close(source, reconstruction(trajectory), **RUN)


def test_the_interpolation_is_that_of_negative_prompt_inversion():
    trajectory = make()
    for weight in (0.4, 1.0):
        guidance = ProximalGuidance(**NONE, recon_strength=0.0, interpolation=weight)
        npi = edit(trajectory, NegativePromptGuidance(weight))[0]
        assert torch.equal(edit(trajectory, guidance)[0], npi)
    # At 1 the unconditional prompt is the negative one: plain text guidance.
    torch.testing.assert_close(npi, edit(trajectory, PlainGuidance())[0], **RUN)


# --- Inversion guidance --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 7, 5)], ids=str)
def test_with_nothing_edited_and_all_of_the_pull_each_step_is_the_trajectory_entry(shape):
    trajectory, events = make(shape), []
    guidance = ProximalGuidance(**ALL, recon_strength=1.0, recon_start=0.0)
    edit(trajectory, guidance, on_step=events.append)
    for event, entry in zip(events, reversed(range(STEPS)), strict=True):
        assert torch.equal(event.x, trajectory.states[entry])


def test_the_source_branch_and_the_target_are_drawn_alike():
    trajectory = make()
    guidance = ProximalGuidance(**ALL, recon_strength=1.0, recon_start=0.9)
    edits, source, _ = edit(trajectory, guidance, editor=Neutral())
    for result in (edits, source):
        assert (result - trajectory.states[0]).abs().max() > 0.01  # 0.9 of six steps: none left
    guidance = replace(guidance, recon_start=0.8)
    for result in edit(trajectory, guidance, editor=Neutral())[:2]:
        assert torch.equal(result, trajectory.states[0])


def test_the_pull_is_the_papers_where_nothing_is_edited():
    trajectory, guidance = make(), ProximalGuidance(recon_strength=0.3, recon_start=0.5)
    run, predictor, steps = begin(guidance, trajectory)
    step, x, after = steps[3], noise(*SHAPE, seed=5), noise(*SHAPE, seed=6)
    guided = predictor.guided(
        Request(x, step.level, TEXT_SCALE, embedding=run.prepare(x, step).embedding)
    )
    run.correct(x, step, guided)
    delta = (guided.eps - guided.negative) / TEXT_SCALE
    edited = (guidance.shrink(delta) != 0).double()
    grown = torch.nn.functional.max_pool2d(edited, 3, 1, 1)
    assert 0 < grown.mean() < 1
    recorded = trajectory.states[step.entry_to]
    expected = after - 0.3 * (after - recorded) * (1 - grown)
    torch.testing.assert_close(run.settle(after, step, guided.eps), expected, rtol=0, atol=1e-12)
    assert torch.equal(run.settle(after, steps[2], guided.eps), after)


def test_fifty_steps_start_it_where_t_falls_below_400():
    guidance = ProximalGuidance()
    acting = [index for index in range(50) if index / 50 >= guidance.recon_start]
    # Timesteps 981, 961, ... of the published run.
    assert acting == [index for index in range(50) if 981 - 20 * index < 400]


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_the_mask_grows_by_so_many_cells_in_its_own_channel(cells):
    trajectory = make((1, 4, 7, 5))
    guidance = ProximalGuidance(quantile=0.0, value=0.5, dilate=cells)
    run, _, steps = begin(guidance, trajectory, text_scale=2.0)
    x, delta = noise(1, 4, 7, 5, seed=5), torch.zeros(1, 4, 7, 5, dtype=torch.float64)
    delta[0, 2, 3, 1] = -1.0
    run.correct(x, steps[4], Guided(x + 2.0 * delta, x))
    expected = torch.zeros_like(delta)
    expected[0, 2, 3 - cells : 4 + cells, max(0, 1 - cells) : 2 + cells] = 1
    assert torch.equal(run.edited, expected)


# --- Masks, batches, cost ------------------------------------------------------------------------


def test_where_the_mask_is_black_the_edit_is_out_and_the_picture_comes_back():
    trajectory = make()
    x, mask = noise(*SHAPE, seed=5), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    results = []
    for given in (mask, None):
        run, predictor, steps = begin(ProximalGuidance(recon_strength=1.0), trajectory, mask=given)
        step = steps[4]
        embedding = run.prepare(x, step).embedding
        guided = predictor.guided(Request(x, step.level, TEXT_SCALE, embedding=embedding))
        results.append((run.correct(x, step, guided), run.settle(x, step, guided.eps)))
    (eps, settled), (free, free_settled) = results
    # Float64 rounding, times the text scale.
    torch.testing.assert_close(eps[..., 2:], guided.negative[..., 2:], rtol=0, atol=1e-12)
    torch.testing.assert_close(eps[..., :2], free[..., :2], rtol=0, atol=1e-12)
    assert torch.equal(settled[..., 2:], trajectory.states[step.entry_to][..., 2:])
    assert torch.equal(settled[..., :2], free_settled[..., :2])


def test_a_white_mask_is_no_mask_bit_for_bit():
    trajectory = make()
    ours = edit(trajectory, ProximalGuidance(), mask=torch.ones(1, 1, 4, 4))[0]
    assert torch.equal(ours, edit(trajectory, ProximalGuidance())[0])


@pytest.mark.parametrize("editor", [None, Neutral(FromSource())], ids=["alone", "with an editor"])
def test_a_noise_mask_pins_all_branches(editor):
    keep = torch.ones(1, 1, 4, 4)
    keep[..., 1] = 0
    trajectory = make(noise_mask=keep)
    edits, source, _ = edit(trajectory, ProximalGuidance(), editor=editor)
    for result in (edits,) if source is None else (edits, source):
        assert torch.equal(result[..., 1], trajectory.states[0][..., 1])


@kinds
@scales
@pytest.mark.parametrize("editor", [None, Neutral(FromSource())], ids=["alone", "with an editor"])
def test_a_batch_of_two_and_two_targets_equal_singles(kind, text_scale, editor):
    trajectory, guidance = make(), ProximalGuidance(kind)
    both, _, _ = edit(trajectory, guidance, (TARGET, OTHER), editor, text_scale)
    for row, (prompt, k) in enumerate(itertools.product((TARGET, OTHER), range(2))):
        single = Trajectory(trajectory.states[:, k : k + 1], SCHEDULE, IDENTITY)
        alone, _, _ = edit(single, guidance, (prompt,), editor, text_scale)
        torch.testing.assert_close(both[row : row + 1], alone, **RUN)


def test_it_costs_two_rows_in_one_call_at_scale_one_as_well():
    trajectory = make()
    assert edit(trajectory, ProximalGuidance())[2].rows == [4] * STEPS
    assert edit(trajectory, ProximalGuidance(), editor=Neutral())[2].rows == [8] * STEPS
    assert edit(trajectory, ProximalGuidance(), text_scale=1.0)[2].rows == [4] * STEPS


def test_at_scale_one_a_step_that_takes_nothing_out_and_draws_nothing_asks_for_no_row_more():
    trajectory = make()
    off = ProximalGuidance(**NONE, recon_strength=0.0)
    edited, _, predictor = edit(trajectory, off, text_scale=1.0)
    assert predictor.rows == [2] * STEPS
    assert torch.equal(edited, edit(trajectory, NegativePromptGuidance(), text_scale=1.0)[0])
    # Where it draws, it has to know what is edited.
    late = ProximalGuidance(**NONE, recon_start=0.5)
    assert edit(trajectory, late, text_scale=1.0)[2].rows == [2] * 3 + [4] * 3
    mask = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.float64)
    assert edit(trajectory, off, text_scale=1.0, mask=mask)[2].rows == [4] * STEPS


def test_a_method_serves_many_runs_and_keeps_nothing_of_them():
    guidance, one, other = ProximalGuidance(), make(), make((1, 4, 5, 3))
    first = edit(one, guidance)[0]
    edit(other, guidance)
    assert torch.equal(edit(one, guidance)[0], first)


def test_a_run_steps_with_its_prediction():
    """The whole run written out, without the library's loop."""
    trajectory, guidance = make(), ProximalGuidance(recon_strength=0.2)
    x, predictor = trajectory.states[-1], network([TARGET], Branches(2))
    source = PromptEmbedding(SOURCE[None])
    for step in SCHEDULE.descent():
        null = predictor.eps(x, step.level, Prompt.NEGATIVE, embedding=source)
        kept = guidance.shrink(predictor.eps(x, step.level, Prompt.POSITIVE) - null)
        x = ddim_step(x, null + TEXT_SCALE * kept, step.level, step.level_to)
        if step.index >= 4:  # 0.6 of six steps
            grown = torch.nn.functional.max_pool2d((kept != 0).double(), 3, 1, 1)
            x = x + 0.2 * (1 - grown) * (trajectory.states[step.entry_to] - x)
    torch.testing.assert_close(edit(trajectory, guidance)[0], x, **RUN)


# --- What cannot be built ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quantile", "recon_strength", "recon_start", "interpolation"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan], ids=str)
def test_a_share_that_is_none_is_refused_by_name_and_value(name, value):
    with pytest.raises(InvalidInput, match=rf"^{name} .*Got {value};"):
        ProximalGuidance(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("value", -1.0), ("value", math.inf), ("value", math.nan), ("dilate", -1)]
)
def test_a_size_that_is_none_is_refused_by_name_and_value(name, value):
    with pytest.raises(InvalidInput, match=rf"^{name} .*Got {value};"):
        ProximalGuidance(**{name: value})


def test_a_threshold_goes_by_its_name_and_an_unknown_one_is_refused():
    assert ProximalGuidance("hard").threshold is Threshold.HARD
    with pytest.raises(InvalidInput, match=r"^threshold .*Got 'l0'; expected 'soft' or 'hard'"):
        ProximalGuidance("l0")
