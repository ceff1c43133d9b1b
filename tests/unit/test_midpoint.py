"""The midpoint step: second order both ways, on both families, under guidance and editors."""

import math

import pytest
import torch
from toys import (
    IDENTITY,
    Counting,
    GaussianNoise,
    SmoothNoise,
    geometric_sigmas,
    noise,
    training_levels,
)

from nmg_sampler import (
    DDIM,
    EditFriendly,
    Family,
    InvalidInput,
    Kind,
    Midpoint,
    Mode,
    NoiseMapGuidance,
    PlainGuidance,
    Solver,
    Trajectory,
    fused_guidance,
    invert,
    official_schedule,
    sample,
    schedule_from_sigmas,
)

SHAPE = (2, 3, 2, 2)
HALVINGS = (8, 16, 32, 64)


class GaussianFlow(Counting):
    """The exact velocity of data x0 ~ N(mean, spread^2) under a rectified flow."""

    def __init__(self, mean=0.7, spread=0.5):
        super().__init__()
        self.mean, self.spread = mean, spread

    def _deviation(self, t):
        return math.sqrt((1 - t) ** 2 * self.spread**2 + t**2)

    def noise_of(self, x, level, prompt):
        t = level.sigma
        slope = (t - (1 - t) * self.spread**2) / self._deviation(t) ** 2
        return slope * (x - (1 - t) * self.mean) - self.mean

    def carry(self, x, level, level_to):
        """The state at `level_to` on the exact flow through `x` at `level`."""
        t, t_to = level.sigma, level_to.sigma
        standardised = (x - (1 - t) * self.mean) / self._deviation(t)
        return (1 - t_to) * self.mean + self._deviation(t_to) * standardised


def vp(steps):
    return schedule_from_sigmas("vp", geometric_sigmas(steps, 8.0, 0.1))


def flow(steps):
    return schedule_from_sigmas(
        "flow", [1 - 0.95 * k / steps for k in range(steps + 1)], Family.FLOW
    )


FAMILIES = {"vp": (vp, GaussianNoise), "flow": (flow, GaussianFlow)}
both_families = pytest.mark.parametrize(("schedule_of", "network"), FAMILIES.values(), ids=FAMILIES)


def order(errors):
    """The power of the step size that the error falls with, by the last halving."""
    return math.log2(errors[-2] / errors[-1])


def error_up(schedule, predictor, solver):
    x = noise(*SHAPE)
    states = invert(x, schedule, predictor, solver=solver)
    return float((states[-1] - predictor.carry(x, schedule.levels[0], schedule.levels[-1])).norm())


def error_down(schedule, predictor, solver):
    x = noise(*SHAPE)
    states = torch.zeros(len(schedule.levels), *SHAPE, dtype=x.dtype)
    states[-1] = x
    trajectory = Trajectory(states, schedule, IDENTITY)
    reached = sample(trajectory, predictor, PlainGuidance(), 1.0, solver=solver).edit
    return float((reached - predictor.carry(x, schedule.levels[-1], schedule.levels[0])).norm())


@both_families
@pytest.mark.parametrize("error", [error_up, error_down])
def test_the_error_falls_with_the_square_of_the_step(schedule_of, network, error):
    first = [error(schedule_of(n), network(), DDIM) for n in HALVINGS]
    second = [error(schedule_of(n), network(), Midpoint()) for n in HALVINGS]
    assert order(first) == pytest.approx(1, abs=0.15)
    # A Gaussian is kind to it on the way down, where the last error cancels.
    assert order(second) > 1.75
    assert second[-1] < first[-1] / 10


@both_families
def test_a_picture_comes_back_with_the_square_of_the_step(schedule_of, network):
    def error(steps, solver):
        schedule, predictor, x = schedule_of(steps), network(), noise(*SHAPE)
        trajectory = Trajectory(invert(x, schedule, predictor, solver=solver), schedule, IDENTITY)
        back = sample(trajectory, predictor, PlainGuidance(), 1.0, solver=solver).edit
        return float((back - x).norm())

    assert order([error(n, Midpoint()) for n in HALVINGS]) > 1.75
    assert error(32, Midpoint()) < error(32, DDIM) / 10


@both_families
def test_refined_it_is_the_exact_inverse_of_its_own_sampling_step(schedule_of, network):
    schedule, predictor, x = schedule_of(16), network(), noise(*SHAPE)
    states = invert(x, schedule, predictor, refine_iterations=30, solver=Midpoint())
    trajectory = Trajectory(states, schedule, IDENTITY)
    back = sample(trajectory, predictor, PlainGuidance(), 1.0, solver=Midpoint()).edit
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)


def test_it_asks_twice_per_step_and_the_default_once():
    for solver in (DDIM, Midpoint()):
        predictor = SmoothNoise()
        states = invert(noise(*SHAPE), vp(6), predictor, solver=solver)
        assert len(predictor.calls) == 6 * solver.calls
        predictor.forget()
        trajectory = Trajectory(states, vp(6), IDENTITY)
        sample(trajectory, predictor, PlainGuidance(), 3.0, solver=solver)
        assert len(predictor.calls) == 6 * solver.calls


def test_the_default_is_the_solver_that_is_named_bit_for_bit():
    states = invert(noise(*SHAPE), vp(6), SmoothNoise())
    assert torch.equal(states, invert(noise(*SHAPE), vp(6), SmoothNoise(), solver=Solver()))
    trajectory = Trajectory(states, vp(6), IDENTITY)
    results = [
        sample(trajectory, SmoothNoise(0.5), fused_guidance(1.5, 300.0), 3.0, **options).edit
        for options in ({}, {"solver": DDIM})
    ]
    assert torch.equal(*results)


def test_the_network_is_never_asked_where_there_is_no_noise():
    """Also at the step down to sigma 0, and where the first step up begins there."""
    schedule = schedule_from_sigmas("x", [*geometric_sigmas(5), 0.0])
    predictor = SmoothNoise()
    states = invert(noise(*SHAPE), schedule, predictor, solver=Midpoint(), refine_iterations=1)
    sample(
        Trajectory(states, schedule, IDENTITY), predictor, PlainGuidance(), 3.0, solver=Midpoint()
    )
    assert min(call.level.sigma for call in predictor.calls) > 0


def test_a_guidance_corrects_the_effective_noise_once_per_step():
    seen = []

    class Watching(PlainGuidance):
        def begin(self, run):
            guiding = super().begin(run)
            correct = guiding.correct

            def watched(x, step, guided):
                seen.append((step.index, guided.negative is not None))
                return correct(x, step, guided)

            guiding.correct = watched
            return guiding

    trajectory = Trajectory(invert(noise(*SHAPE), vp(4), SmoothNoise()), vp(4), IDENTITY)
    sample(trajectory, SmoothNoise(), Watching(), 3.0, solver=Midpoint())
    assert seen == [(index, True) for index in range(4)]


@pytest.mark.parametrize("gradient", ["direct", "full"])
def test_noise_map_guidance_holds_the_picture_with_it(gradient):
    schedule, x = vp(20), noise(*SHAPE)
    trajectory = Trajectory(
        invert(x, schedule, SmoothNoise(), solver=Midpoint()), schedule, IDENTITY
    )

    def distance(scale):
        guidance = NoiseMapGuidance(scale, 2000.0, Mode.FUSED, gradient)
        reached = sample(trajectory, SmoothNoise(0.6), guidance, 3.0, solver=Midpoint()).edit
        return float((reached - x).norm())

    assert distance(5.0) < 0.8 * distance(0.0)


def test_on_the_schedule_of_the_published_code_it_starts_where_that_does():
    schedule = official_schedule(training_levels(), 10)
    predictor = SmoothNoise()
    states = invert(noise(*SHAPE), schedule, predictor, solver=Midpoint())
    assert predictor.calls[0].level == schedule.query_levels[0]
    assert torch.isfinite(states).all()


def test_what_was_found_for_plain_steps_is_refused():
    trajectory = Trajectory(
        invert(noise(*SHAPE), vp(4), SmoothNoise()), vp(4), IDENTITY, kind=Kind.DRAWN
    )
    with pytest.raises(InvalidInput, match="solver does not go with this guidance.*Midpoint"):
        sample(trajectory, SmoothNoise(), EditFriendly(), 3.0, solver=Midpoint())
    # Another one of DDIM is DDIM: what is missing then is the noise of the steps.
    with pytest.raises(InvalidInput, match="trajectory is of the wrong kind"):
        sample(trajectory, SmoothNoise(), EditFriendly(), 3.0, solver=Solver())
