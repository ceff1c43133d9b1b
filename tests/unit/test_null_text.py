"""Null-Text Inversion: it follows the trajectory, its replay is its path, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from toys import IDENTITY, AttentiveNoise, DetachedNoise, noise, training_levels

from nmg_sampler import (
    Branches,
    Editor,
    EditorRun,
    InvalidInput,
    Kind,
    NotDifferentiable,
    NotFinite,
    PlainGuidance,
    Prompt,
    PromptEmbedding,
    Trajectory,
    TrajectoryMismatch,
    invert,
    load_trajectory,
    official_masactrl_schedule,
    official_schedule,
    sample,
    save_trajectory,
)
from nmg_sampler.methods import NullTextGuidance, NullTextSettings, optimise_null_text
from nmg_sampler.trajectory import ddim_step, eps_to_x0, step_factors, x0_to_eps

SHAPE = (2, 4, 4, 4)
STEPS = 10
SCHEDULE = official_masactrl_schedule(training_levels(), STEPS)
SOURCE, NEGATIVE, TARGET = (noise(5, 4, seed=seed) for seed in (1, 2, 3))
SCALE = 7.5
# The toy's embeddings are four numbers wide: it takes longer steps than a trained network's do.
SETTINGS = NullTextSettings(SCALE, learning_rate=0.05)
# Embeddings are float32, whatever the states are.
FLOAT32 = {"rtol": 0, "atol": 1e-5}


def network(pictures=2, targets=(SOURCE,), with_source=False):
    branches = Branches(pictures, len(targets), with_source)
    return AttentiveNoise(SOURCE, targets, NEGATIVE, branches)


def make(shape=SHAPE, schedule=SCHEDULE, seed=0, **fields):
    """The trajectory of a picture under the source prompt."""
    predictor = AttentiveNoise(SOURCE, [], NEGATIVE, Branches(shape[0], 0, True))
    states = invert(noise(*shape, seed=seed), schedule, predictor)
    return Trajectory(states, schedule, IDENTITY, **fields)


def part(trajectory, index):
    """One picture of a trajectory."""
    states = trajectory.states[:, index : index + 1]
    return Trajectory(states, trajectory.schedule, trajectory.model)


def optimise(trajectory, settings=SETTINGS, predictor=None):
    """(embeddings, end of the path, events)"""
    events = []
    predictor = predictor or network(trajectory.shape[0])
    found = optimise_null_text(trajectory, predictor, settings, on_update=events.append)
    return *found, events


def losses_by_step(events, settings=SETTINGS):
    """(B,) losses before each update, step by step, without that of the path."""
    each = settings.inner_steps + 1
    steps = [[] for _ in range(events[-1].total // each)]
    for event in events:
        if event.index % each < settings.inner_steps:
            steps[event.index // each].append(event.loss)
    return [torch.stack(step) for step in steps]


def replay(trajectory, guidance, targets=(SOURCE,), editor=None, scale=SCALE, predictor=None):
    predictor = predictor or network(trajectory.shape[0], targets, editor is not None)
    return sample(trajectory, predictor, guidance, scale, targets=len(targets), editor=editor)


def mae(latent, trajectory):
    return float((latent - trajectory.states[0]).abs().mean())


class Untouched(Editor):
    """Runs a source branch and changes nothing."""

    def begin(self, run):
        return EditorRun(run)


# --- The optimisation ----------------------------------------------------------------------------


def test_losses_do_not_rise_within_a_step():
    _, _, events = optimise(make(), replace(SETTINGS, early_stop=0.0))
    steps = losses_by_step(events)
    assert len(steps) == STEPS
    for losses in steps:
        assert bool((losses.diff(dim=0) <= 0).all())
    assert len(steps[0]) == SETTINGS.inner_steps


def test_the_replay_is_the_optimised_path_exactly():
    trajectory = make()
    embeddings, latent, _ = optimise(trajectory)
    guidance = NullTextGuidance(embeddings, SCALE, trajectory)
    assert torch.equal(replay(trajectory, guidance).edit, latent)
    assert embeddings.shape == (STEPS, 2, 5, 4)
    assert embeddings.dtype == torch.float32


def test_it_reconstructs_better_than_text_guidance_alone():
    trajectory = make()
    _, latent, _ = optimise(trajectory)
    plain = replay(trajectory, PlainGuidance()).edit
    assert mae(latent, trajectory) < 0.5 * mae(plain, trajectory)


def test_no_updates_are_plain_text_guidance():
    trajectory = make()
    embeddings, latent, events = optimise(trajectory, replace(SETTINGS, inner_steps=0))
    # The negative prompt, rounded to float32, in every step.
    assert torch.equal(embeddings, NEGATIVE.float().expand(STEPS, 2, -1, -1))
    torch.testing.assert_close(latent, replay(trajectory, PlainGuidance()).edit, **FLOAT32)
    assert [event.index for event in events] == list(range(STEPS))


def test_an_update_is_that_of_pytorch_on_the_mean_squared_error():
    """Against the algorithm written out with torch.optim.Adam, in two steps with a mask."""
    mask = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(3)).double()
    trajectory = make((1, 4, 4, 4), noise_mask=mask)
    settings = replace(SETTINGS, inner_steps=3, early_stop=0.0)
    embeddings, _, _ = optimise(trajectory, settings)
    predictor, tokens = network(1), NEGATIVE.float()[None]
    x = trajectory.states[-1]
    for step in SCHEDULE.descent()[:2]:
        recorded, goal = trajectory.states[step.entry], trajectory.states[step.entry_to]
        shown = mask * x + (1 - mask) * recorded
        scale, shift = step_factors(step.level, step.level_to)
        outside = eps_to_x0(recorded, (goal - scale * recorded) / shift, step.level)

        def reach(eps, x=x, shown=shown, outside=outside, step=step):
            x0 = mask * eps_to_x0(shown, eps, step.level) + (1 - mask) * outside
            return ddim_step(x, x0_to_eps(x, x0, step.level), step.level, step.level_to)

        text = predictor.eps(shown, step.level, Prompt.POSITIVE)
        leaf = tokens.clone().requires_grad_()
        adam = torch.optim.Adam([leaf], lr=0.05 * (1 - step.index / 100))
        for _ in range(3):
            null = predictor.eps(shown, step.level, Prompt.NEGATIVE, None, PromptEmbedding(leaf))
            reached = reach(null + SCALE * (text - null))
            loss = torch.nn.functional.mse_loss(reached, goal)
            adam.zero_grad()
            loss.backward()
            adam.step()
        tokens = leaf.detach()
        torch.testing.assert_close(embeddings[step.index], tokens, **FLOAT32)
        null = predictor.eps(shown, step.level, Prompt.NEGATIVE, None, PromptEmbedding(tokens))
        x = reach(null + SCALE * (text - null))


def test_a_step_ends_with_the_update_after_which_it_was_good_enough():
    """As published: the loss that is compared is the one before the update."""
    trajectory, settings = make((1, 4, 4, 4)), replace(SETTINGS, early_stop=2e-2)
    predictor = network(1)
    _, _, events = optimise(trajectory, settings, predictor)
    steps = losses_by_step(events, settings)
    for index, losses in enumerate(steps):
        enough = 2e-2 + 2e-5 * index
        assert bool((losses[:-1] >= enough).all())
        assert len(losses) == 10 or bool(losses[-1] < enough)
    assert any(len(losses) < 10 for losses in steps)
    assert predictor.backward_passes == sum(map(len, steps))


def test_each_step_starts_from_the_embedding_of_the_step_before():
    settings = replace(SETTINGS, learning_rate=0.0)
    embeddings, _, _ = optimise(make(), settings)
    assert torch.equal(embeddings, NEGATIVE.float().expand(STEPS, 2, -1, -1))
    # With an update per step each one moves by the learning rate of its step: Adam's first.
    one = replace(SETTINGS, inner_steps=1, learning_rate=0.01)
    embeddings, _, _ = optimise(make(), one)
    moved = embeddings.diff(dim=0).abs().amax((1, 2, 3))
    torch.testing.assert_close(
        moved, 0.01 * (1 - torch.arange(1, STEPS) / 100), rtol=1e-2, atol=1e-6
    )


def test_the_learning_rate_stays_positive_beyond_a_hundred_steps():
    rates = [SETTINGS.rate(index) / SETTINGS.learning_rate for index in (0, 50, 99, 100, 500)]
    assert rates == pytest.approx([1, 0.5, 0.01, 0.01, 0.01])


def test_a_batch_of_two_is_two_runs_of_one():
    """Each sample has its own loss, and stops on its own."""
    trajectory, settings = make(), replace(SETTINGS, early_stop=4e-3)
    embeddings, latent, both = optimise(trajectory, settings)
    lengths = []
    for index in range(2):
        single, end, events = optimise(part(trajectory, index), settings)
        lengths.append([len(losses) for losses in losses_by_step(events, settings)])
        torch.testing.assert_close(embeddings[:, index], single[:, 0], **FLOAT32)
        torch.testing.assert_close(latent[index], end[0], **FLOAT32)
    assert lengths[0] != lengths[1], "the two never stop at different times"
    together = [len(losses) for losses in losses_by_step(both, settings)]
    assert together == [max(pair) for pair in zip(*lengths, strict=True)]


def test_cost_and_progress_are_counted():
    settings = replace(SETTINGS, inner_steps=3, early_stop=0.0)
    predictor = network(2)
    _, _, events = optimise(make(), settings, predictor)
    assert [event.index for event in events] == list(range(4 * STEPS))
    assert {event.total for event in events} == {4 * STEPS}
    # The prompt, three updates, and both halves of the path.
    assert predictor.rows == [2, 2, 2, 2, 4] * STEPS
    assert predictor.backward_passes == 3 * STEPS
    assert sum(call.with_graph for call in predictor.calls) == 3 * STEPS


@pytest.mark.parametrize("scale", [1 + 1e-5, 7.5, 100.0])
def test_the_network_gets_slopes_of_a_length_that_half_precision_can_hold(scale):
    lengths = []

    class Watched(AttentiveNoise):
        def _count_backward(self, gradient):
            lengths.append(gradient.flatten(1).norm(dim=1))

    predictor = Watched(SOURCE, [SOURCE], NEGATIVE, Branches(2))
    optimise(make(), replace(SETTINGS, text_scale=scale), predictor)
    assert bool(((torch.cat(lengths) > 0.999) & (torch.cat(lengths) < 2.001)).all())


def test_outside_the_noise_mask_the_path_is_the_recorded_state():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    trajectory = make(noise_mask=mask)
    embeddings, latent, events = optimise(trajectory)
    assert torch.equal(latent[..., 2:], trajectory.states[0][..., 2:])
    guidance = NullTextGuidance(embeddings, SCALE, trajectory)
    assert torch.equal(replay(trajectory, guidance).edit, latent)
    # Where nothing may change there is nothing to do.
    still = replace(trajectory, noise_mask=torch.zeros_like(mask))
    embeddings, latent, events = optimise(still)
    assert torch.equal(embeddings, NEGATIVE.float().expand(STEPS, 2, -1, -1))
    assert all(len(losses) == 1 for losses in losses_by_step(events))


def test_the_trajectory_is_not_written_to_and_a_second_run_is_the_first():
    trajectory = make()
    states = trajectory.states.clone()
    first, second = optimise(trajectory), optimise(trajectory)
    assert torch.equal(trajectory.states, states)
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_other_scales_are_optimised_as_well(scale):
    trajectory = make()
    settings = replace(SETTINGS, text_scale=scale)
    _, latent, _ = optimise(trajectory, settings)
    plain = replay(trajectory, PlainGuidance(), scale=scale).edit
    assert mae(latent, trajectory) < mae(plain, trajectory)


def test_inside_the_hosts_inference_mode_it_is_the_same():
    trajectory, predictor = make(), network()
    expected, _, _ = optimise(trajectory)
    with torch.inference_mode():
        got, _, _ = optimise(trajectory, predictor=predictor)
    assert torch.equal(got, expected)


# --- The guidance --------------------------------------------------------------------------------


def test_all_branches_and_targets_get_the_same_embedding():
    trajectory = make()
    embeddings, latent, _ = optimise(trajectory)
    guidance = NullTextGuidance(embeddings, SCALE, trajectory)
    both = replay(trajectory, guidance, (TARGET, SOURCE), Untouched())
    torch.testing.assert_close(both.source, latent, rtol=0, atol=1e-12)
    torch.testing.assert_close(both.edit[2:], latent, rtol=0, atol=1e-12)
    alone = replay(trajectory, guidance, (TARGET,)).edit
    torch.testing.assert_close(both.edit[:2], alone, rtol=0, atol=1e-12)
    assert mae(alone, trajectory) > 2 * mae(latent, trajectory)


def test_saved_with_the_trajectory_they_come_back(tmp_path):
    trajectory = make()
    embeddings, latent, _ = optimise(trajectory)
    name = SETTINGS.extra_name("abc")
    kept = replace(trajectory, extras={name: embeddings})
    save_trajectory(kept, tmp_path / "x", torch.float64)
    loaded = load_trajectory(tmp_path / "x")
    guidance = NullTextGuidance(loaded.extras[name], SCALE, loaded)
    assert torch.equal(replay(loaded, guidance).edit, latent)


def test_every_setting_has_its_own_place_in_the_trajectory():
    others = [
        replace(SETTINGS, **change)
        for change in (
            {"text_scale": 7.0},
            {"inner_steps": 9},
            {"learning_rate": 0.06},
            {"early_stop": 2e-5},
        )
    ]
    names = {settings.extra_name("a") for settings in [SETTINGS, *others]}
    assert len(names | {SETTINGS.extra_name("b")}) == 6
    whole, real = NullTextSettings(7, 10), NullTextSettings(7.0, 10)
    assert whole.extra_name("a") == real.extra_name("a")


@pytest.fixture(scope="module")
def found():
    trajectory = make()
    return NullTextGuidance(noise(STEPS, 2, 5, 4).float(), SCALE, trajectory)


def test_another_text_scale_is_refused_with_both(found):
    with pytest.raises(InvalidInput, match=r"^text_scale .*Got 5.0; expected 7.5"):
        replay(found.made_for, found, scale=5.0)


OTHERS = {
    "steps": (make(schedule=official_masactrl_schedule(training_levels(), 8)), r"\(8, 2\).*\(10"),
    "pictures": (make((1, 4, 4, 4)), r"\(10, 1\).*\(10, 2\)"),
    "size": (make((2, 4, 8, 4)), r"\(4, 8, 4\).*\(4, 4, 4\)"),
    "schedule": (make(schedule=official_schedule(training_levels(), 10)), "official; made for"),
    "levels": (
        make(schedule=official_masactrl_schedule(training_levels()[:500], 10)),
        "sigmas .* made for sigmas",
    ),
    "picture": (make(seed=7), "another picture"),
}


@pytest.mark.parametrize(("other", "named"), OTHERS.values(), ids=OTHERS)
def test_a_trajectory_it_was_not_made_for_is_refused(found, other, named):
    with pytest.raises(TrajectoryMismatch, match=named):
        found.check(other, Branches(other.shape[0]))


def test_a_trajectory_whose_states_are_no_path_is_refused(found):
    drawn = replace(found.made_for, kind=Kind.DRAWN)
    with pytest.raises(InvalidInput, match="wrong kind"):
        found.check(drawn, Branches(2))
    with pytest.raises(InvalidInput, match="wrong kind"):
        optimise(drawn)


def test_the_same_trajectory_in_half_precision_is_the_same(found):
    states = found.made_for.states.half().double()
    found.check(Trajectory(states, SCHEDULE, IDENTITY), Branches(2))


@pytest.mark.parametrize(
    "embeddings",
    [noise(STEPS, 1, 5, 4), noise(STEPS, 2, 5), noise(STEPS, 2, 5, 4) * math.nan],
    ids=["batch", "dimensions", "not finite"],
)
def test_embeddings_that_do_not_fit_are_refused(found, embeddings):
    with pytest.raises(InvalidInput, match="null-text embeddings"):
        NullTextGuidance(embeddings, SCALE, found.made_for)


# --- What cannot be ------------------------------------------------------------------------------


def test_at_scale_one_there_is_no_gradient_and_it_is_refused():
    with pytest.raises(InvalidInput, match=r"^text_scale .*gradient is 0. Got 1.0"):
        NullTextSettings(1.0)


@pytest.mark.parametrize("name", ["text_scale", "inner_steps", "learning_rate", "early_stop"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan])
def test_numbers_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InvalidInput, match=f"^{name} .*Got {value}"):
        NullTextSettings(**{name: value})


def test_a_patch_that_cuts_the_graph_is_refused_with_another_method():
    class Cut(DetachedNoise):
        def embedding(self, prompt):
            return PromptEmbedding(NEGATIVE[None])

    with pytest.raises(NotDifferentiable, match="Negative-Prompt Inversion"):
        optimise(make(), predictor=Cut())


@pytest.mark.parametrize("where", ["update", "path"])
def test_numbers_that_are_not_finite_are_named_with_their_step(where):
    class Broken(AttentiveNoise):
        def noise_under(self, *args):
            bad = torch.is_grad_enabled() == (where == "update") and len(self.calls) > 12
            return super().noise_under(*args) * (math.nan if bad else 1.0)

    predictor = Broken(SOURCE, [SOURCE], NEGATIVE, Branches(2))
    with pytest.raises(NotFinite, match=f"step . of {STEPS}"):
        optimise(make(), predictor=predictor)
