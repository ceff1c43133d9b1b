"""Noise Map Guidance over the run: its part of the run, its turns and its falloff."""

from dataclasses import replace

import pytest
import torch
from noise_maps import EXACT, SHAPE, begin, gradients, make, method, modes, term_of
from toys import SmoothNoise, noise
from toys import edit_of as sample

from nmg_sampler import PlainGuidance, Request
from nmg_sampler.trajectory import ddim_step


@modes
@gradients
def test_outside_its_part_of_the_run_the_method_is_plain_text_guidance_bit_for_bit(mode, gradient):
    trajectory, events = make(), {}
    guidance = method(0.5, mode, gradient, start=0.25, end=0.5)
    for name, choice in (("plain", PlainGuidance()), ("windowed", guidance)):
        events[name] = []
        sample(trajectory, SmoothNoise(0.5), choice, 5.0, on_step=events[name].append)
    same = [torch.equal(one.x, other.x) for one, other in zip(*events.values(), strict=True)]
    # Of eight steps, 2 and 3 lie in the window; from there on the states differ.
    assert same == [True, True] + [False] * 6
    # After the window each step is the plain one from where the window left the state.
    x = events["windowed"][3].x
    for step in trajectory.schedule.descent()[4:]:
        eps = SmoothNoise(0.5).guided(Request(x, step.level, 5.0)).eps
        x = ddim_step(x, eps, step.level, step.level_to)
    assert torch.equal(events["windowed"][-1].x, x)


@modes
@gradients
def test_the_whole_run_as_a_window_is_no_window(mode, gradient):
    trajectory = make()
    whole, default = method(0.5, mode, gradient, start=0.0, end=1.0), method(0.5, mode, gradient)
    results = [sample(trajectory, SmoothNoise(0.5), g, 5.0) for g in (whole, default)]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("start", "end", "acting"),
    [(0.0, 0.125, [0]), (0.3, 0.7, [3, 4, 5]), (0.875, 1.0, [7]), (0.3, 0.31, [])],
    ids=str,
)
def test_the_window_takes_the_steps_that_begin_in_it(start, end, acting):
    trajectory = make()
    run, steps = begin(method(start=start, end=end), trajectory)
    assert [step.index for step in steps if run.acts(step)] == acting


@modes
@gradients
def test_every_step_and_no_falloff_change_no_bit(mode, gradient):
    trajectory = make()
    neutral = method(0.5, mode, gradient, every=1, falloff=0.0)
    results = [
        sample(trajectory, SmoothNoise(0.5), g, 5.0) for g in (neutral, method(0.5, mode, gradient))
    ]
    assert torch.equal(*results)
    terms = [
        term_of(g, trajectory, noise(*SHAPE, seed=5)) for g in (neutral, replace(neutral, end=0.9))
    ]
    assert torch.equal(*terms)


@pytest.mark.parametrize(
    ("every", "acting"),
    [(1, list(range(8))), (2, [0, 2, 4, 6]), (3, [0, 3, 6]), (8, [0]), (100, [0])],
    ids=str,
)
def test_every_takes_the_steps_in_turn_from_the_first(every, acting):
    run, steps = begin(method(every=every), make())
    assert [step.index for step in steps if run.acts(step)] == acting


def test_every_counts_from_the_first_step_of_the_run_not_of_the_window():
    run, steps = begin(method(every=3, start=0.25, end=0.9), make())
    assert [step.index for step in steps if run.acts(step)] == [3, 6]


@modes
@gradients
def test_between_its_turns_the_method_is_plain_text_guidance(mode, gradient):
    trajectory, events = make(), []
    guidance = method(0.5, mode, gradient, every=2)
    sample(trajectory, SmoothNoise(0.5), guidance, 5.0, on_step=events.append)
    for step in trajectory.schedule.descent()[1::2]:
        x = events[step.index - 1].x
        eps = SmoothNoise(0.5).guided(Request(x, step.level, 5.0)).eps
        after = ddim_step(x, eps, step.level, step.level_to)
        assert torch.equal(events[step.index].x, after)


@modes
@gradients
@pytest.mark.parametrize("falloff", [0.4, 1.0])
@pytest.mark.parametrize("index", [0, 3, 7])
def test_the_scale_falls_evenly_over_the_run(mode, gradient, falloff, index):
    trajectory = make()
    x = trajectory.states[trajectory.schedule.descent()[index].entry] + 0.2 * noise(*SHAPE, seed=5)
    whole, falling = (method(0.7, mode, gradient, falloff=f) for f in (0.0, falloff))
    torch.testing.assert_close(
        term_of(falling, trajectory, x, index),
        (1 - falloff * index / 8) * term_of(whole, trajectory, x, index),
        **EXACT,
    )
