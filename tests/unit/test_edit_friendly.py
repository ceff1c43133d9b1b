"""Edit-Friendly DDPM inversion: the formulas of arXiv 2304.06140, exactness, and the two kinds."""

import math
from dataclasses import replace

import pytest
import torch
from toys import (
    IDENTITY,
    AttentiveNoise,
    FailingNoise,
    SmoothNoise,
    edit_of,
    geometric_sigmas,
    noise,
    training_levels,
)

from nmg_sampler import (
    Branches,
    Editor,
    EditorRun,
    InvalidInput,
    Kind,
    NotFinite,
    PlainGuidance,
    Request,
    Trajectory,
    fused_guidance,
    invert,
    load_trajectory,
    official_guidance,
    official_masactrl_schedule,
    official_schedule,
    sample,
    save_trajectory,
    schedule_from_sigmas,
)
from nmg_sampler.methods import (
    STEP_NOISE,
    EditFriendly,
    ddpm_step,
    invert_edit_friendly,
    skip_noisiest,
)
from nmg_sampler.trajectory import Family, ddim_step

SHAPE = (2, 3, 5, 4)
STEPS = 8
SCALE = 3.5
SCHEDULES = {
    "official-masactrl": official_masactrl_schedule(training_levels(), STEPS),
    "official": official_schedule(training_levels(), STEPS),
    "down to no noise": schedule_from_sigmas("x", [*geometric_sigmas(STEPS - 1), 0.0]),
}
SCHEDULE = SCHEDULES["official-masactrl"]
EXACT = {"rtol": 0, "atol": 1e-12}

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(schedule=SCHEDULE, skip=0, x=None, scale=SCALE, predictor=None, seed=0, **fields):
    """The trajectory of a latent under a toy network."""
    schedule = skip_noisiest(schedule, skip)
    x = noise(*SHAPE) if x is None else x
    predictor = predictor or SmoothNoise()
    states, z = invert_edit_friendly(x, schedule, predictor, scale, seeded(seed))
    return Trajectory(states, schedule, IDENTITY, extras={STEP_NOISE: z}, kind=Kind.DRAWN, **fields)


def visited(trajectory, predictor, scale=SCALE, **options):
    """The state after each step of sampling with the method."""
    events = []
    sample(trajectory, predictor, EditFriendly(), scale, on_step=events.append, **options)
    return [event.x for event in events]


def last_step(trajectory, predictor=None):
    """(mean, deviation) of the step down to the picture, from the recorded state above it."""
    predictor = predictor or SmoothNoise()
    step = trajectory.schedule.descent()[-1]
    x = trajectory.states[1]
    eps = predictor.guided(Request(x, step.level, SCALE)).eps
    return ddpm_step(ddim_step(x, eps, step.level, step.level_to), eps, step)


# --- The formulas --------------------------------------------------------------------------------


@each_schedule
def test_the_step_is_the_posterior_of_ddpm(schedule):
    x, eps = noise(*SHAPE, seed=1), noise(*SHAPE, seed=2)
    for step in schedule.descent():
        # Ho et al., arXiv 2006.11239, eq. 7, with abar_{t-1} = alpha'^2.
        abar, abar_to = step.level.alpha**2, step.level_to.alpha**2
        beta = 1 - abar / abar_to
        x0_hat = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        expected = math.sqrt(abar_to) * beta / (1 - abar) * x0_hat
        expected += math.sqrt(1 - beta) * (1 - abar_to) / (1 - abar) * x
        variance = (1 - abar_to) / (1 - abar) * beta
        mean, deviation = ddpm_step(ddim_step(x, eps, step.level, step.level_to), eps, step)
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-10)
        assert deviation**2 == pytest.approx(variance, abs=1e-12)


def test_every_state_is_the_picture_with_white_noise_of_its_own():
    x = noise(1, 4, 32, 32)
    trajectory = make(x=x)
    assert torch.equal(trajectory.states[0], x)
    levels = trajectory.schedule.levels
    drawn = [
        (trajectory.states[k] - levels[k].alpha * x) / levels[k].sigma for k in range(1, STEPS + 1)
    ]
    together = torch.corrcoef(torch.stack([x, *drawn]).flatten(1))
    # 4096 numbers: a correlation of independent ones is below 5 / sqrt(4096) = 0.08.
    assert float((together - torch.eye(STEPS + 1)).abs().max()) < 0.08
    for n in drawn:
        assert float(n.mean().abs()) < 0.08
        assert float(n.std()) == pytest.approx(1, abs=0.06)


@each_schedule
def test_the_noise_is_what_each_step_needs_and_none_in_the_last(schedule):
    trajectory, predictor = make(schedule), SmoothNoise()
    z = trajectory.extras[STEP_NOISE]
    assert z.shape == (STEPS, *SHAPE)
    assert not z[0].any()
    for step in trajectory.schedule.descent()[:-1]:
        x = trajectory.states[step.entry]
        eps = predictor.guided(Request(x, step.level, SCALE)).eps
        mean, deviation = ddpm_step(ddim_step(x, eps, step.level, step.level_to), eps, step)
        expected = (trajectory.states[step.entry_to] - mean) / deviation
        torch.testing.assert_close(z[step.entry_to], expected, rtol=0, atol=1e-9)
        assert float(z[step.entry_to].std()) > 0.5


# --- Exactness -----------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("skip", [0, 1, 5, STEPS - 1])
@pytest.mark.parametrize("scale", [1.0, SCALE, 15.0])
def test_same_prompt_and_scale_give_every_state_bit_for_bit(schedule, skip, scale):
    """Acceptance check "EF 1"; the last state is the mean of its step: "EF 2"."""
    trajectory = make(schedule, skip, scale=scale)
    states = visited(trajectory, SmoothNoise(), scale)
    assert len(states) == STEPS - skip
    for entry, state in enumerate(reversed(states)):
        assert entry == 0 or torch.equal(state, trajectory.states[entry])


@each_schedule
def test_the_zeroed_noise_of_the_last_step_is_the_only_residual(schedule):
    trajectory = make(schedule)
    result = visited(trajectory, SmoothNoise())[-1]
    mean, deviation = last_step(trajectory)
    torch.testing.assert_close(result, mean, **EXACT)
    if deviation == 0:
        return
    z = trajectory.extras[STEP_NOISE].clone()
    z[0] = (trajectory.states[0] - mean) / deviation
    whole = replace(trajectory, extras={STEP_NOISE: z})
    torch.testing.assert_close(visited(whole, SmoothNoise())[-1], trajectory.states[0], **EXACT)


def test_in_half_precision_the_states_still_come_back_bit_for_bit():
    # Without putting each state where its step arrives, the difference would be seen here.
    trajectory = make(x=noise(*SHAPE, dtype=torch.bfloat16))
    assert trajectory.states.dtype == torch.bfloat16
    states = visited(trajectory, SmoothNoise())
    for entry, state in enumerate(reversed(states[:-1]), start=1):
        assert torch.equal(state, trajectory.states[entry])


def test_another_prompt_or_scale_is_another_picture():
    trajectory = make()
    same = visited(trajectory, SmoothNoise())[-1]
    for predictor, scale in ((SmoothNoise(0.5), SCALE), (SmoothNoise(), 15.0)):
        assert (visited(trajectory, predictor, scale)[-1] - same).abs().max() > 0.01


# --- Skipping, batches and seeds -----------------------------------------------------------------


@each_schedule
def test_what_is_skipped_costs_nothing_and_the_rest_is_the_same(schedule):
    whole, predictor = make(schedule), SmoothNoise()
    cut = make(schedule, 3, predictor=predictor)
    # Nor does the last step: it leads to the picture, and its noise is zeroed.
    assert predictor.rows == [2 * len(noise(*SHAPE))] * (STEPS - 4)
    assert [call.level for call in predictor.calls] == list(schedule.levels[STEPS - 3 : 1 : -1])
    assert cut.schedule.levels == schedule.levels[: STEPS - 2]
    torch.testing.assert_close(cut.states, whole.states[: STEPS - 2], **EXACT)
    torch.testing.assert_close(
        cut.extras[STEP_NOISE][:-1], whole.extras[STEP_NOISE][: STEPS - 4], rtol=0, atol=1e-9
    )
    predictor.forget()
    visited(cut, predictor)
    assert [call.level for call in predictor.calls] == list(schedule.levels[STEPS - 3 : 0 : -1])


def test_at_a_scale_of_one_a_step_costs_one_row():
    predictor = SmoothNoise()
    make(scale=1.0, predictor=predictor)
    assert predictor.rows == [2] * (STEPS - 1)


def test_the_schedule_of_a_flow_is_refused():
    flow = schedule_from_sigmas("simple", [1.0, 0.6, 0.0], Family.FLOW)
    with pytest.raises(InvalidInput, match=r"^Edit-Friendly Inversion needs.* Got a flow model;"):
        skip_noisiest(flow, 0)


@pytest.mark.parametrize(
    ("skip", "pattern"),
    [
        (STEPS, "^skip leaves no step. Got 8 of 8 steps; expected 0 to 7"),
        (99, "^skip leaves no step"),
        (-1, "^skip is no step count"),
    ],
)
def test_a_skip_that_leaves_nothing_is_refused(skip, pattern):
    with pytest.raises(InvalidInput, match=pattern):
        skip_noisiest(SCHEDULE, skip)


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_a_scale_that_is_none_is_refused_before_the_first_call(scale):
    predictor = SmoothNoise()
    with pytest.raises(InvalidInput, match="^source_scale leaves its range"):
        make(scale=scale, predictor=predictor)
    assert not predictor.calls


def test_a_bad_number_stops_the_inversion_with_its_step():
    with pytest.raises(NotFinite, match="step 3 of 8"):
        make(x=noise(1, 3, 4, 4), predictor=FailingNoise(SmoothNoise(), 2))


def test_the_same_seed_is_the_same_bit_for_bit_and_another_is_another():
    before = torch.get_rng_state()
    one, same, other = make(seed=7), make(seed=7), make(seed=8)
    assert torch.equal(one.states, same.states)
    assert torch.equal(one.extras[STEP_NOISE], same.extras[STEP_NOISE])
    assert torch.equal(one.states[0], other.states[0])
    assert (one.states[1:] - other.states[1:]).abs().amax((1, 2, 3, 4)).min() > 0.01
    assert torch.equal(torch.get_rng_state(), before)


def test_a_picture_gets_the_same_noise_alone_and_in_front_of_a_batch():
    x = noise(*SHAPE)
    batch, single = make(x=x), make(x=x[:1])
    torch.testing.assert_close(batch.states[:, :1], single.states, **EXACT)
    torch.testing.assert_close(
        batch.extras[STEP_NOISE][:, :1], single.extras[STEP_NOISE], rtol=0, atol=1e-9
    )
    assert (batch.states[-1, 0] - batch.states[-1, 1]).abs().max() > 0.1


def test_a_batch_of_two_is_edited_as_two_singles():
    trajectory = make()
    together = edit_of(trajectory, SmoothNoise(0.5), EditFriendly(), 7.0)
    for k in range(2):
        z = trajectory.extras[STEP_NOISE][:, k : k + 1]
        states = trajectory.states[:, k : k + 1]
        single = replace(trajectory, states=states, extras={STEP_NOISE: z})
        alone = edit_of(single, SmoothNoise(0.5), EditFriendly(), 7.0)
        torch.testing.assert_close(together[k : k + 1], alone, **EXACT)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 7, 5), (2, 3, 2, 4, 3)], ids=str)
def test_odd_sizes_and_video_latents_will_do(shape):
    trajectory = make(x=noise(*shape))
    result = visited(trajectory, SmoothNoise())[-1]
    assert result.shape == shape
    torch.testing.assert_close(result, last_step(trajectory)[0], **EXACT)


def test_a_run_writes_into_nothing_it_is_given():
    x = noise(*SHAPE)
    given = x.clone()
    trajectory = make(x=x)
    before = trajectory.states.clone(), trajectory.extras[STEP_NOISE].clone()
    edit_of(trajectory, SmoothNoise(0.5), EditFriendly(), 7.0)
    assert torch.equal(x, given)
    assert torch.equal(trajectory.states, before[0])
    assert torch.equal(trajectory.extras[STEP_NOISE], before[1])


def test_each_step_of_the_inversion_is_reported_from_noise_to_picture():
    events, schedule = [], skip_noisiest(SCHEDULE, 2)
    invert_edit_friendly(noise(*SHAPE), schedule, SmoothNoise(), SCALE, seeded(), events.append)
    assert [event.index for event in events] == list(range(STEPS - 2))
    assert {event.total for event in events} == {STEPS - 2}
    assert [event.level for event in events] == list(SCHEDULE.levels[STEPS - 3 :: -1])


# --- Masks, files, editors -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["noise_mask", "mask"])
def test_outside_a_mask_every_state_is_the_recorded_one_bit_for_bit(name):
    mask = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.float64)
    mask[..., :2] = 1
    trajectory = make()
    options = {}
    if name == "mask":
        options["mask"] = mask
    else:
        trajectory = replace(trajectory, noise_mask=mask)
    states = visited(trajectory, SmoothNoise(0.5), 7.0, **options)
    free = visited(make(), SmoothNoise(0.5), 7.0)
    for entry, state in enumerate(reversed(states)):
        assert torch.equal(state[..., 2:], trajectory.states[entry][..., 2:])
    assert (states[-1] - free[-1])[..., 2:].abs().max() > 0.01


def test_under_a_soft_noise_mask_the_source_prompt_still_gives_the_recorded_states():
    mask = torch.linspace(0, 1, SHAPE[3], dtype=torch.float64).expand(1, 1, *SHAPE[2:])
    trajectory = replace(make(), noise_mask=mask)
    states = visited(trajectory, SmoothNoise(), SCALE)
    # The last one is the mean of its step.
    for entry, state in enumerate(reversed(states[:-1]), start=1):
        torch.testing.assert_close(state, trajectory.states[entry], rtol=0, atol=1e-12)


def test_a_mask_of_ones_changes_no_bit():
    ones = torch.ones(1, 1, *SHAPE[2:], dtype=torch.float64)
    results = [visited(make(), SmoothNoise(0.5), 7.0, **o)[-1] for o in ({}, {"mask": ones})]
    assert torch.equal(*results)


def test_a_trajectory_from_a_file_gives_the_identical_edit(tmp_path):
    trajectory = make(skip=2, x=noise(*SHAPE, dtype=torch.float32))
    save_trajectory(trajectory, tmp_path / "x")
    results = [
        edit_of(each, SmoothNoise(0.5), EditFriendly(), 7.0)
        for each in (trajectory, load_trajectory(tmp_path / "x"))
    ]
    assert torch.equal(*results)


SOURCE, NEGATIVE, TARGET = (noise(5, 4, seed=seed) for seed in (1, 2, 3))


class Uncoupled(Editor):
    """A source branch beside the edits, and nothing between them."""

    def begin(self, run):
        return EditorRun(run)


def attentive(*targets, with_source):
    return AttentiveNoise(SOURCE, targets, NEGATIVE, Branches(2, len(targets), with_source))


def attentive_trajectory():
    predictor = attentive(SOURCE, with_source=False)
    return make(x=noise(2, 4, 4, 4), predictor=predictor)


def test_beside_an_editor_the_source_is_the_picture_and_an_edit_of_the_same_prompt_is_it_too():
    trajectory = attentive_trajectory()
    network = attentive(SOURCE, TARGET, with_source=True)
    result = sample(trajectory, network, EditFriendly(), SCALE, targets=2, editor=Uncoupled())
    edits, source = result.edit, result.source
    alone = edit_of(trajectory, attentive(SOURCE, with_source=False), EditFriendly(), SCALE)
    torch.testing.assert_close(source, alone, **EXACT)
    torch.testing.assert_close(edits[:2], source, **EXACT)
    assert (edits[2:] - source).abs().max() > 0.01


def test_all_targets_share_the_noise():
    trajectory = attentive_trajectory()
    network = attentive(SOURCE, TARGET, with_source=False)
    both = edit_of(trajectory, network, EditFriendly(), 7.0, targets=2)
    for index, prompt in enumerate((SOURCE, TARGET)):
        network = attentive(prompt, with_source=False)
        single = edit_of(trajectory, network, EditFriendly(), 7.0)
        torch.testing.assert_close(both[2 * index : 2 * index + 2], single, **EXACT)


# --- The two kinds of trajectory -----------------------------------------------------------------


def test_a_trajectory_of_ddim_inversion_is_refused_before_anything_runs():
    schedule = SCHEDULE
    trajectory = Trajectory(invert(noise(*SHAPE), schedule, SmoothNoise()), schedule, IDENTITY)
    predictor = SmoothNoise()
    with pytest.raises(InvalidInput, match="wrong kind.*Edit-Friendly Inversion"):
        sample(trajectory, predictor, EditFriendly(), SCALE)
    assert not predictor.calls


def test_noise_of_other_steps_is_refused():
    trajectory = make()
    cut = {STEP_NOISE: trajectory.extras[STEP_NOISE][1:]}
    with pytest.raises(InvalidInput, match="wrong kind"):
        sample(replace(trajectory, extras=cut), SmoothNoise(), EditFriendly(), SCALE)


@pytest.mark.parametrize(
    "guidance",
    [PlainGuidance(), fused_guidance(1.5, 5000), official_guidance(10, 5000)],
    ids=["plain", "fused", "official"],
)
def test_other_methods_refuse_states_that_are_no_path(guidance):
    predictor = SmoothNoise()
    with pytest.raises(InvalidInput, match="trajectory is of the wrong kind.*one by one"):
        sample(make(), predictor, guidance, SCALE)
    assert not predictor.calls
