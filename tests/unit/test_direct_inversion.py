"""Direct Inversion: the source branch is the trajectory, the target hears of it by attention."""

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
    Request,
    Trajectory,
    invert,
    official_masactrl_schedule,
    official_schedule,
    sample,
)
from nmg_sampler.methods import DirectInversion
from nmg_sampler.trajectory import ddim_step

SHAPE = (2, 4, 4, 4)
STEPS = 6
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SOURCE, NEGATIVE, TARGET, OTHER = (noise(5, 4, seed=seed) for seed in (1, 2, 3, 4))
TEXT_SCALE = 7.5


class FromSource:
    """Everyone takes the source's result in every layer."""

    def wants(self, layer):
        return True

    def __call__(self, call):
        return call.branches.repeat(call.plain()[call.branches.source_rows])


class Coupled(Editor):
    """An editor that couples all rows, or with None does nothing."""

    def __init__(self, attention=None):
        self.change = attention

    def begin(self, run):
        editing = EditorRun(run)
        editing.attention = lambda step: self.change
        return editing


class Recording(Coupled):
    """Keeps what the branches are when the editor's turn after a step comes."""

    def __init__(self):
        super().__init__()
        self.states = []

    def begin(self, run):
        editing = super().begin(run)

        def settle(x, step):
            self.states.append(x)
            return x

        editing.settle = settle
        return editing


def network(targets, branches):
    return AttentiveNoise(SOURCE, targets, NEGATIVE, branches)


def make(shape=SHAPE, schedule=SCHEDULE, **options):
    predictor = network([], Branches(shape[0], 0, True))
    return Trajectory(invert(noise(*shape), schedule, predictor), schedule, IDENTITY, **options)


def edit(trajectory, guidance, targets=(TARGET,), editor=None, **options):
    """(edit, source, predictor) beside a source branch."""
    predictor = network(targets, Branches(trajectory.shape[0], len(targets), True))
    editor = editor or Coupled()
    result = sample(
        trajectory,
        predictor,
        guidance,
        TEXT_SCALE,
        targets=len(targets),
        editor=editor,
        **options,
    )
    return result.edit, result.source, predictor


@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 7, 5)], ids=str)
def test_the_source_branch_is_the_trajectory_bit_for_bit_in_every_step(shape):
    trajectory, editor = make(shape), Recording()
    _, source, _ = edit(trajectory, DirectInversion(), editor=editor)
    assert torch.equal(source, trajectory.states[0])
    for state, entry in zip(editor.states, reversed(range(STEPS)), strict=True):
        assert torch.equal(state[: shape[0]], trajectory.states[entry])


def test_also_where_sampling_starts_below_the_last_state():
    trajectory = make(schedule=official_schedule(training_levels(), STEPS))
    assert torch.equal(edit(trajectory, DirectInversion())[1], trajectory.states[0])


def test_without_it_the_source_branch_leaves_the_picture():
    trajectory = make()
    assert (edit(trajectory, PlainGuidance())[1] - trajectory.states[0]).abs().max() > 0.1


def test_the_target_is_plain_text_guidance_bit_for_bit_if_nothing_couples_it():
    trajectory = make()
    ours, plain = (edit(trajectory, method)[0] for method in (DirectInversion(), PlainGuidance()))
    assert torch.equal(ours, plain)


def test_an_editor_carries_it_to_the_target():
    trajectory = make()
    ours, plain = (
        edit(trajectory, method, editor=Coupled(FromSource()))[0]
        for method in (DirectInversion(), PlainGuidance())
    )
    assert (ours - plain).abs().max() > 0.01


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_it_is_the_papers_offset_added_after_the_step(strength):
    """Algorithm 1: per step the source's offset to the trajectory, times `strength`."""
    trajectory = make()
    x, targets = Branches(2, 1, True).repeat(trajectory.states[-1]), [TARGET]
    predictor = network(targets, Branches(2, 1, True))
    for step in SCHEDULE.descent():
        eps = predictor.guided(Request(x, step.level, TEXT_SCALE, attention=FromSource())).eps
        x = ddim_step(x, eps, step.level, step.level_to)
        offset = trajectory.states[step.entry_to] - x[:2]
        x = torch.cat([x[:2] + strength * offset, x[2:]])
    edits, source, _ = edit(trajectory, DirectInversion(strength), editor=Coupled(FromSource()))
    # Float64 rounding of six steps.
    torch.testing.assert_close(torch.cat([source, edits]), x, rtol=0, atol=1e-11)


def test_a_strength_of_zero_is_plain_text_guidance_bit_for_bit():
    trajectory = make()
    for ours, plain in zip(
        edit(trajectory, DirectInversion(0.0), editor=Coupled(FromSource()))[:2],
        edit(trajectory, PlainGuidance(), editor=Coupled(FromSource()))[:2],
        strict=True,
    ):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    ("every", "acting"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (4, [0, 4])]
)
def test_every_takes_the_steps_in_turn_from_the_first(every, acting):
    trajectory, editor = make(), Recording()
    edit(trajectory, DirectInversion(every=every), editor=editor)
    pinned = [
        index
        for index, state in enumerate(editor.states)
        if torch.equal(state[:2], trajectory.states[STEPS - 1 - index])
    ]
    assert pinned == acting


def test_several_targets_share_the_source_and_stay_their_own():
    trajectory = make()
    both, source, predictor = edit(
        trajectory, DirectInversion(), (TARGET, OTHER), Coupled(FromSource())
    )
    assert torch.equal(source, trajectory.states[0])
    for rows, prompt in ((slice(0, 2), TARGET), (slice(2, 4), OTHER)):
        single, _, _ = edit(trajectory, DirectInversion(), (prompt,), Coupled(FromSource()))
        torch.testing.assert_close(both[rows], single, rtol=0, atol=1e-12)
    # Three branches of two pictures under two prompts, and not one call more.
    assert predictor.rows == [12] * STEPS


def test_a_batch_of_two_equals_two_singles():
    trajectory = make()
    both, _, _ = edit(trajectory, DirectInversion(), editor=Coupled(FromSource()))
    for k in range(2):
        single = Trajectory(trajectory.states[:, k : k + 1], SCHEDULE, IDENTITY)
        alone, _, _ = edit(single, DirectInversion(), editor=Coupled(FromSource()))
        torch.testing.assert_close(both[k : k + 1], alone, rtol=0, atol=1e-12)


def test_with_a_mask_the_edit_is_the_picture_itself_outside():
    trajectory, mask = make(), torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    edits, _, _ = edit(trajectory, DirectInversion(), mask=mask)
    assert torch.equal(edits[..., 2:], trajectory.states[0][..., 2:])
    assert (edits[..., :2] - trajectory.states[0][..., :2]).abs().max() > 0.01


def test_a_noise_mask_pins_the_edit_as_ever():
    keep = torch.ones(1, 1, 4, 4)
    keep[..., 1] = 0
    trajectory = make(noise_mask=keep)
    edits, source, _ = edit(trajectory, DirectInversion(), editor=Coupled(FromSource()))
    assert torch.equal(source, trajectory.states[0])
    assert torch.equal(edits[..., 1], trajectory.states[0][..., 1])


def test_under_a_soft_noise_mask_the_source_is_still_the_picture():
    trajectory = make(noise_mask=torch.linspace(0, 1, 4).expand(1, 1, 4, 4))
    _, source, _ = edit(trajectory, DirectInversion(), editor=Coupled(FromSource()))
    torch.testing.assert_close(source, trajectory.states[0], rtol=0, atol=1e-6)


def test_without_an_editor_it_is_refused_before_anything_runs():
    predictor = network([TARGET], Branches(2))
    with pytest.raises(InvalidInput, match=r"guidance needs an editor\. Got Direct Inversion"):
        sample(make(), predictor, DirectInversion(), TEXT_SCALE)
    assert predictor.calls == []


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan], ids=str)
def test_a_strength_that_is_no_share_is_refused(strength):
    with pytest.raises(InvalidInput, match=rf"^strength .*Got {strength};"):
        DirectInversion(strength)


def test_no_steps_at_all_are_refused():
    with pytest.raises(InvalidInput, match=r"^every .*Got 0;"):
        DirectInversion(every=0)
