"""Branches and editors in the sampling loop: who is held, who is coupled, who is left alone."""

import pytest
import torch
from toys import IDENTITY, AttentiveNoise, noise, training_levels

from nmg_sampler import (
    Branches,
    Editor,
    EditorRun,
    Gradient,
    Half,
    InvalidInput,
    Mode,
    NoiseMapGuidance,
    PlainGuidance,
    Rows,
    Trajectory,
    fused_guidance,
    invert,
    official_guidance,
    official_masactrl_schedule,
    sample,
)

SHAPE = (2, 4, 4, 4)
STEPS = 6
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SOURCE, NEGATIVE = noise(5, 4, seed=1), noise(5, 4, seed=2)
TARGET, OTHER = noise(5, 4, seed=3), noise(5, 4, seed=4)
TEXT_SCALE = 3.0

GUIDANCES = {
    "plain": PlainGuidance(),
    "official full": official_guidance(3.0, 300.0),
    "fused direct": fused_guidance(3.0, 300.0),
    "fused full": NoiseMapGuidance(3.0, 300.0, Mode.FUSED, Gradient.FULL),
}
each_guidance = pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES)


class Untouched(Editor):
    """An editor that changes nothing, or what a test gives it to change."""

    def __init__(self, attention=None):
        self.change = attention

    def begin(self, run):
        editing = EditorRun(run)
        editing.attention = lambda step: self.change
        return editing


class Seeing:
    """An attention edit that leaves all layers as they are and keeps the calls."""

    def __init__(self):
        self.calls = []

    def wants(self, layer):
        return True

    def __call__(self, call):
        self.calls.append(call)
        return call.plain()


class FromSource(Seeing):
    """Everyone takes the source's result."""

    def __call__(self, call):
        return call.branches.repeat(call.plain()[call.branches.source_rows])


def make(shape=SHAPE, **options):
    """A trajectory under the source prompt."""
    predictor = network([], Branches(shape[0], 0, True))
    return Trajectory(invert(noise(*shape), SCHEDULE, predictor), SCHEDULE, IDENTITY, **options)


def network(targets, branches):
    return AttentiveNoise(SOURCE, targets, NEGATIVE, branches)


def edit(trajectory, guidance, targets, editor=None, **options):
    """(targets, B, C, ...) edits, the source branch, the predictor."""
    branches = Branches(trajectory.shape[0], len(targets), editor is not None)
    predictor = network(targets, branches)
    result = sample(
        trajectory,
        predictor,
        guidance,
        TEXT_SCALE,
        targets=len(targets),
        editor=editor,
        **options,
    )
    return result.edit.unflatten(0, (len(targets), -1)), result.source, predictor


def test_rows_go_branch_by_branch_with_the_source_first():
    branches = Branches(2, 3, True)
    x = torch.arange(8)
    assert branches.rows == 8
    assert x[branches.source_rows].tolist() == [0, 1]
    assert x[branches.target_rows].tolist() == [2, 3, 4, 5, 6, 7]
    assert branches.split(x)[2].tolist() == [4, 5]
    assert branches.part(Rows.SOURCE).rows == 2
    assert branches.part(Rows.TARGETS) == Branches(2, 3)
    assert branches.repeat(torch.tensor([7, 9])).tolist() == [7, 9] * 4


def test_without_an_editor_there_is_no_source_branch_and_every_target_is_held():
    branches = Branches(2, 3)
    x = torch.arange(6)
    assert x[branches.source_rows].numel() == 0
    assert x[branches.held_rows].tolist() == x.tolist()
    _, source, _ = edit(make(), PlainGuidance(), [TARGET])
    assert source is None


@each_guidance
def test_a_neutral_editor_leaves_source_and_target_what_they_are_alone(guidance):
    trajectory = make()
    edits, source, _ = edit(trajectory, guidance, [TARGET], Untouched(Seeing()))
    alone, _, _ = edit(trajectory, guidance, [SOURCE])
    free, _, _ = edit(trajectory, PlainGuidance(), [TARGET])
    torch.testing.assert_close(source, alone[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(edits, free, rtol=0, atol=1e-12)


@each_guidance
def test_the_target_is_not_guided_itself(guidance):
    """It is bit for bit the same whatever holds the source, unless an editor couples them."""
    trajectory = make()
    edits, _, _ = edit(trajectory, guidance, [TARGET], Untouched())
    plain, _, _ = edit(trajectory, PlainGuidance(), [TARGET], Untouched())
    assert torch.equal(edits, plain)


def test_what_holds_the_source_reaches_the_target_through_attention():
    trajectory = make()
    coupled = [
        edit(trajectory, GUIDANCES[name], [TARGET], Untouched(FromSource()))[0]
        for name in ("plain", "fused direct")
    ]
    assert not torch.allclose(*coupled, rtol=0, atol=1e-3)


def test_further_targets_change_nothing_for_the_first_and_share_the_source():
    trajectory = make()
    both, source, predictor = edit(
        trajectory, GUIDANCES["fused direct"], [TARGET, OTHER], Untouched(FromSource())
    )
    for index, prompt in enumerate((TARGET, OTHER)):
        single, same, _ = edit(
            trajectory, GUIDANCES["fused direct"], [prompt], Untouched(FromSource())
        )
        torch.testing.assert_close(both[index], single[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(source, same, rtol=0, atol=1e-12)
    # Per step: three branches of two pictures, with and without text.
    assert predictor.rows == [12] * STEPS


def test_several_targets_without_an_editor_are_each_held():
    trajectory = make()
    both, _, _ = edit(trajectory, GUIDANCES["official full"], [TARGET, OTHER])
    for index, prompt in enumerate((TARGET, OTHER)):
        single, _, _ = edit(trajectory, GUIDANCES["official full"], [prompt])
        torch.testing.assert_close(both[index], single[0], rtol=0, atol=1e-12)


def test_the_edit_sees_both_halves_of_every_layer_with_their_sizes_and_columns():
    seeing = Seeing()
    edit(make(), PlainGuidance(), [TARGET, noise(10, 4, seed=5)], Untouched(seeing))
    calls = seeing.calls[:12]
    halves = [Half.COND] * 6 + [Half.UNCOND] * 6
    assert [call.half for call in calls] == halves
    assert [call.size for call in calls[:6]] == [(4, 4), (4, 4), (2, 2), (2, 2), (4, 4), (4, 4)]
    assert [call.columns for call in calls[:2]] == [(), (5, 5, 10)]
    assert all(call.columns == () for call in calls[6:])
    assert calls[1].k.shape[2] == 10


@pytest.mark.parametrize("name", ["official full", "fused full"])
def test_the_gradient_pass_is_of_the_source_alone_and_out_of_the_editors_sight(name):
    seeing = Seeing()
    _, _, predictor = edit(make(), GUIDANCES[name], [TARGET], Untouched(seeing))
    assert predictor.rows == [2, 8] * STEPS
    assert all(call.branches.count == 2 for call in seeing.calls)


def test_with_an_editor_a_mask_makes_the_target_the_source_outside():
    trajectory = make()
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    edits, source, _ = edit(trajectory, GUIDANCES["fused direct"], [TARGET], Untouched(), mask=mask)
    assert torch.equal(edits[0][..., 2:], source[..., 2:])
    assert not torch.allclose(edits[0][..., :2], source[..., :2], rtol=0, atol=1e-3)
    _, unmasked, _ = edit(trajectory, GUIDANCES["fused direct"], [TARGET], Untouched())
    assert torch.equal(source, unmasked)


def test_a_noise_mask_pins_all_branches():
    keep = torch.ones(2, 1, 4, 4)
    keep[1, ..., 1] = 0
    trajectory = make(noise_mask=keep)
    edits, source, _ = edit(trajectory, PlainGuidance(), [TARGET, OTHER], Untouched(FromSource()))
    for result in (source, *edits):
        assert torch.equal(result[1, ..., 1], trajectory.states[0][1, ..., 1])
        assert not torch.equal(result[0, ..., 1], trajectory.states[0][0, ..., 1])


def test_events_show_the_edits_and_not_the_source():
    events = []
    edits, _, _ = edit(make(), PlainGuidance(), [TARGET, OTHER], Untouched(), on_step=events.append)
    assert torch.equal(events[-1].x, edits.flatten(0, 1))
    assert events[-1].x0.shape == events[-1].x.shape


def test_events_have_the_clean_latent_of_the_source_beside_those_of_the_edits():
    events, alone = [], []
    edit(make(), PlainGuidance(), [TARGET, OTHER], Untouched(), on_step=events.append)
    edit(make(), PlainGuidance(), [SOURCE], on_step=alone.append)
    for event, expected in zip(events, alone, strict=True):
        torch.testing.assert_close(event.source_x0, expected.x0, rtol=0, atol=1e-10)
        assert expected.source_x0 is None


def test_a_bad_mask_is_still_refused_before_anything_runs():
    with pytest.raises(InvalidInput, match="mask"):
        edit(make(), PlainGuidance(), [TARGET], Untouched(), mask=torch.ones(3, 1, 4, 4))
