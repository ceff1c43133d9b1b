"""FlowEdit: the paper's loop number for number, what it leaves alone, and what it asks of a run."""

import pytest
import torch
from toys import IDENTITY, SmoothNoise, geometric_sigmas, noise

from nmg_sampler import (
    Branches,
    Family,
    FlowEdit,
    HeldPrediction,
    InvalidInput,
    Kind,
    Midpoint,
    Prompt,
    Rows,
    Schedule,
    Trajectory,
    invert,
    sample,
    schedule_from_sigmas,
)
from nmg_sampler.trajectory import draw_states

STEPS, SHAPE = 8, (2, 3, 4, 4)
SOURCE_SCALE, TARGET_SCALE = 1.5, 5.5
FLOW = schedule_from_sigmas("flow", [1 - k / STEPS for k in range(STEPS + 1)], Family.FLOW)
DIFFUSION = schedule_from_sigmas("vp", [*geometric_sigmas(STEPS), 0.0])
EXACT = {"rtol": 0, "atol": 1e-12}


class TwoPrompts(SmoothNoise):
    """The source branch is predicted under the source prompt, the target under its own."""

    def __init__(self, targets=1):
        super().__init__(target=0.7)
        self.branches = Branches(SHAPE[0], targets, True)

    def noise_under(self, x, level, prompt, rows, attention=None, embedding=None):
        if prompt is Prompt.POSITIVE and rows is Rows.ALL:
            source = self.branches.source_rows
            parts = x[source], x[self.branches.target_rows]
            prompts = Prompt.SOURCE, Prompt.POSITIVE
            return torch.cat(
                [self.noise_of(part, level, p) for part, p in zip(parts, prompts, strict=True)]
            )
        if prompt is Prompt.POSITIVE and rows is Rows.SOURCE:
            prompt = Prompt.SOURCE
        return self.noise_of(x, level, prompt)


def drawn(schedule: Schedule = FLOW, seed=0, **fields):
    x0 = noise(*SHAPE, seed=3)
    states = draw_states(x0, schedule, torch.Generator().manual_seed(seed))
    return Trajectory(states, schedule, IDENTITY, kind=Kind.DRAWN, **fields)


def edit(trajectory, guidance=None, predictor=None, scale=TARGET_SCALE, **options):
    guidance = guidance or FlowEdit(SOURCE_SCALE)
    return sample(trajectory, predictor or TwoPrompts(), guidance, scale, **options)


def guided(x, level, prompt, scale):
    """Classifier-free guidance of the toy, written out."""
    toy = SmoothNoise(target=0.7)
    negative = toy.noise_of(x, level, Prompt.NEGATIVE)
    return negative + scale * (toy.noise_of(x, level, prompt) - negative)


def published_loop(trajectory, free_steps=0):
    """Algorithm 1 in its own letters, with the noise that the trajectory was drawn with."""
    x0 = trajectory.states[0]
    z, p = x0.clone(), None
    steps = trajectory.schedule.descent()
    for step in steps:
        t, t_next = step.level.sigma, step.level_to.sigma
        q = trajectory.states[step.entry]
        if step.index < len(steps) - free_steps:
            p = z + q - x0
            velocity = guided(p, step.level, Prompt.POSITIVE, TARGET_SCALE)
            velocity = velocity - guided(q, step.level, Prompt.SOURCE, SOURCE_SCALE)
            z = z + (t_next - t) * velocity
            p = z + trajectory.states[step.entry_to] - x0
        else:
            p = p + (t_next - t) * guided(p, step.level, Prompt.POSITIVE, TARGET_SCALE)
    return p if free_steps else z


@pytest.mark.parametrize("free_steps", [0, 3])
def test_it_is_the_papers_loop(free_steps):
    trajectory = drawn()
    result = edit(trajectory, FlowEdit(SOURCE_SCALE, free_steps))
    torch.testing.assert_close(result.edit, published_loop(trajectory, free_steps), **EXACT)
    assert torch.equal(result.source, trajectory.states[0])


@pytest.mark.parametrize("schedule", [FLOW, DIFFUSION], ids=["flow", "vp"])
def test_the_same_prompt_and_scale_on_both_sides_give_the_picture(schedule):
    class OnePrompt(TwoPrompts):
        def __init__(self):
            super().__init__()
            self.bias[Prompt.POSITIVE] = self.bias[Prompt.SOURCE]

    trajectory = drawn(schedule)
    result = edit(trajectory, predictor=OnePrompt(), scale=SOURCE_SCALE)
    torch.testing.assert_close(result.edit, trajectory.states[0], **EXACT)
    changed = edit(trajectory, predictor=OnePrompt())
    assert not torch.allclose(changed.edit, trajectory.states[0], atol=1e-2)


def test_outside_the_mask_the_edit_is_the_picture_bit_for_bit():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., 2:] = 1
    trajectory = drawn()
    result = edit(trajectory, mask=mask)
    assert torch.equal(result.edit[..., :2], trajectory.states[0][..., :2])
    assert not torch.allclose(result.edit[..., 2:], trajectory.states[0][..., 2:], atol=1e-2)


def test_each_branch_is_asked_at_its_own_scale_in_a_call_of_its_own():
    predictor = TwoPrompts()
    edit(drawn(), predictor=predictor)
    assert predictor.rows == [2 * SHAPE[0], 2 * SHAPE[0]] * STEPS
    predictor.forget()
    edit(drawn(), predictor=predictor, scale=SOURCE_SCALE)
    assert predictor.rows == [4 * SHAPE[0]] * STEPS


def test_two_targets_are_two_edits():
    both = edit(drawn(), predictor=TwoPrompts(targets=2), targets=2)
    single = edit(drawn())
    torch.testing.assert_close(both.edit, torch.cat([single.edit] * 2), **EXACT)


def test_a_picture_of_a_batch_is_that_picture_alone():
    trajectory = drawn()
    alone = Trajectory(trajectory.states[:, 1:], FLOW, IDENTITY, kind=Kind.DRAWN)
    predictor = TwoPrompts()
    predictor.branches = Branches(1, 1, True)
    result = edit(alone, predictor=predictor)
    torch.testing.assert_close(result.edit, edit(trajectory).edit[1:], **EXACT)


def test_other_noise_is_another_edit_and_the_same_noise_the_same_bit_for_bit():
    assert torch.equal(edit(drawn(seed=1)).edit, edit(drawn(seed=1)).edit)
    assert not torch.equal(edit(drawn(seed=1)).edit, edit(drawn(seed=2)).edit)


def test_it_goes_with_another_solver():
    plain, second = (edit(drawn(), **o).edit for o in ({}, {"solver": Midpoint()}))
    assert torch.isfinite(second).all()
    assert not torch.equal(plain, second)


def test_an_inverted_trajectory_is_refused_and_so_is_another_loop():
    inverted = Trajectory(invert(noise(*SHAPE), FLOW, SmoothNoise()), FLOW, IDENTITY)
    with pytest.raises(InvalidInput, match="trajectory is of the wrong kind"):
        edit(inverted)
    with pytest.raises(InvalidInput, match="does more than correct"):
        HeldPrediction(drawn(), TwoPrompts(), FlowEdit(), 5.5)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"source_scale": -1.0}, "source_scale"), ({"free_steps": -1}, "free_st")],
)
def test_a_setting_that_leaves_its_range_is_refused(settings, name):
    with pytest.raises(InvalidInput, match=f"^{name}"):
        FlowEdit(**settings)
