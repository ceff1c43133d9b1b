"""The way down: the loop, the mask, what it costs, and what it refuses."""

import math
import random
from dataclasses import replace

import pytest
import torch
from toys import (
    IDENTITY,
    FailingNoise,
    GaussianNoise,
    SmoothNoise,
    geometric_sigmas,
    noise,
    training_levels,
)
from toys import (
    edit_of as sample,
)

from nmg_sampler import (
    Gradient,
    Guidance,
    GuidedRun,
    InvalidInput,
    Mode,
    NoiseMapGuidance,
    NotFinite,
    PlainGuidance,
    Prompt,
    Request,
    Trajectory,
    fused_guidance,
    invert,
    official_guidance,
    official_schedule,
    schedule_from_sigmas,
)
from nmg_sampler.trajectory import ddim_step, eps_to_x0

SHAPE = (2, 3, 4, 4)
SCHEDULE = schedule_from_sigmas("x", geometric_sigmas(8))
STEPS = len(SCHEDULE.levels) - 1
# A pull of about what the papers use: 3 per element.
SCALES = (10.0, 5000.0)

FUSED_FULL = NoiseMapGuidance(*SCALES, Mode.FUSED, Gradient.FULL)
OFFICIAL_DIRECT = NoiseMapGuidance(*SCALES, Mode.OFFICIAL, Gradient.DIRECT)
METHODS = {
    "plain": PlainGuidance(),
    "official full": official_guidance(*SCALES),
    "official direct": OFFICIAL_DIRECT,
    "fused full": FUSED_FULL,
    "fused direct": fused_guidance(*SCALES),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def make(schedule=SCHEDULE, shape=SHAPE, dtype=torch.float64, **fields):
    """The trajectory of a Gaussian latent under the smooth toy."""
    states = invert(noise(*shape, dtype=dtype), schedule, SmoothNoise())
    return Trajectory(states, schedule, IDENTITY, **fields)


def test_sampling_without_a_method_is_the_ddim_loop_written_out():
    trajectory, predictor = make(), SmoothNoise(0.5)
    x = trajectory.states[-1]
    for upper, lower in zip(SCHEDULE.levels[::-1], SCHEDULE.levels[-2::-1], strict=False):
        negative, positive = (
            predictor.noise_of(x, upper, prompt) for prompt in (Prompt.NEGATIVE, Prompt.POSITIVE)
        )
        eps = negative + 5.0 * (positive - negative)
        scale = lower.alpha / upper.alpha
        x = scale * x + (lower.sigma - scale * upper.sigma) * eps
    result = sample(trajectory, predictor, PlainGuidance(), 5.0)
    # Float64 rounding.
    torch.testing.assert_close(result, x, rtol=0, atol=1e-12)


def test_sampling_in_sigma_space_by_euler_steps_gives_the_same():
    trajectory, predictor = make(), SmoothNoise(0.5)
    sigmas = [level.k_sigma for level in SCHEDULE.levels[::-1]]
    x_k = trajectory.states[-1] * math.sqrt(1 + sigmas[0] ** 2)
    for level, sigma, sigma_to in zip(SCHEDULE.levels[::-1], sigmas, sigmas[1:], strict=False):
        z = x_k / math.sqrt(1 + sigma**2)
        x_k = x_k + (sigma_to - sigma) * predictor.noise_of(z, level, Prompt.POSITIVE)
    result = sample(trajectory, predictor, PlainGuidance(), 1.0)
    # Acceptance check "Common 1": rounding of eight steps in another space.
    torch.testing.assert_close(result, x_k / math.sqrt(1 + sigmas[-1] ** 2), rtol=0, atol=1e-10)


def test_the_official_schedule_takes_the_last_state_as_it_is_one_level_lower():
    trajectory, predictor = make(official_schedule(training_levels(), 4)), SmoothNoise()
    levels = trajectory.schedule.levels
    x = trajectory.states[-1]
    for upper, lower in zip(levels[3:0:-1], levels[2::-1], strict=True):
        x = ddim_step(x, predictor.noise_of(x, upper, Prompt.POSITIVE), upper, lower)
    assert torch.equal(sample(trajectory, predictor, PlainGuidance(), 1.0), x)


@methods
def test_the_result_has_shape_and_dtype_of_the_trajectory(method):
    trajectory = make(dtype=torch.float32)
    result = sample(trajectory, SmoothNoise(0.5), method, 3.0)
    assert result.shape == SHAPE
    assert result.dtype == torch.float32
    assert not result.requires_grad


@methods
@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (1, 4, 2, 3, 3), (1, 1, 1, 1)], ids=str)
def test_odd_sizes_and_video_latents_will_do(method, shape):
    assert sample(make(shape=shape), SmoothNoise(0.5), method, 3.0).shape == shape


@methods
def test_one_step_down_to_sigma_zero_is_finite(method):
    schedule = schedule_from_sigmas("one", [5.0, 0.0])
    assert sample(make(schedule), SmoothNoise(0.5), method, 3.0).isfinite().all()


ROWS = {
    # (method, text_scale): rows of the calls of one step for one sample, backward passes.
    "plain": (PlainGuidance(), 5.0, [2], 0),
    "plain, scale 1": (PlainGuidance(), 1.0, [1], 0),
    "official full": (official_guidance(*SCALES), 5.0, [1, 2], 1),
    "official direct": (OFFICIAL_DIRECT, 5.0, [1, 2], 0),
    "official, scale 1": (official_guidance(*SCALES), 1.0, [1, 1], 1),
    "official, no strength": (official_guidance(0.0, 5000.0), 5.0, [1, 2], 0),
    "fused full": (FUSED_FULL, 5.0, [1, 1], 1),
    "fused direct": (fused_guidance(*SCALES), 5.0, [2], 0),
    "fused full, scale 1": (FUSED_FULL, 1.0, [1, 1], 1),
    "fused direct, scale 1": (fused_guidance(*SCALES), 1.0, [2], 0),
    "fused direct, no strength": (fused_guidance(0.0, 5000.0), 5.0, [2], 0),
    "fused direct, no strength, scale 1": (fused_guidance(0.0, 5000.0), 1.0, [1], 0),
    "fused full, no strength": (replace(FUSED_FULL, noise_map_scale=0.0), 5.0, [2], 0),
}


@pytest.mark.parametrize(
    ("method", "text_scale", "rows", "backward_passes"), ROWS.values(), ids=ROWS
)
def test_a_step_costs_so_many_rows(method, text_scale, rows, backward_passes):
    trajectory, predictor = make(shape=(1, 3, 4, 4)), SmoothNoise(0.5)
    sample(trajectory, predictor, method, text_scale)
    assert predictor.rows == rows * STEPS
    assert predictor.backward_passes == backward_passes * STEPS
    assert sum(call.with_graph for call in predictor.calls) == backward_passes * STEPS


@methods
def test_every_call_of_a_step_is_at_the_level_of_the_step(method):
    trajectory, predictor = make(), SmoothNoise(0.5)
    sample(trajectory, predictor, method, 5.0)
    per_step = len(predictor.calls) // STEPS
    levels = [level for level in SCHEDULE.levels[:0:-1] for _ in range(per_step)]
    assert [call.level for call in predictor.calls] == levels
    assert {call.prompt for call in predictor.calls} <= {None, Prompt.NEGATIVE}


@methods
def test_a_batch_of_two_equals_two_singles(method):
    trajectory = make()
    both = sample(trajectory, SmoothNoise(0.5), method, 3.0)
    for k in range(2):
        single = Trajectory(trajectory.states[:, k : k + 1], SCHEDULE, IDENTITY)
        # Vectorised tanh may round the last bit by position.
        torch.testing.assert_close(
            both[k : k + 1], sample(single, SmoothNoise(0.5), method, 3.0), rtol=0, atol=1e-12
        )


@methods
def test_each_step_reports_its_state_and_a_finite_clean_latent(method):
    events = []
    result = sample(make(), SmoothNoise(0.5), method, 3.0, on_step=events.append)
    assert [event.index for event in events] == list(range(STEPS))
    assert {event.total for event in events} == {STEPS}
    assert [event.level for event in events] == list(SCHEDULE.levels[-2::-1])
    assert torch.equal(events[-1].x, result)
    assert all(event.x0.isfinite().all() for event in events)


@methods
def test_the_reported_clean_latent_is_the_one_the_step_goes_to(method):
    schedule, predictor, events = schedule_from_sigmas("x", [5.0, 0.0]), GaussianNoise(), []
    trajectory = Trajectory(noise(2, *SHAPE), schedule, IDENTITY)
    result = sample(trajectory, predictor, method, 1.0, on_step=events.append)
    # A step to sigma 0 ends at the predicted clean latent; rounding alone.
    torch.testing.assert_close(events[0].x0, result, rtol=0, atol=1e-12)


def test_an_exception_in_the_report_stops_the_run_within_one_step():
    def cancel(event):
        if event.index == 2:
            raise InterruptedError

    predictor = SmoothNoise()
    with pytest.raises(InterruptedError):
        sample(make(), predictor, PlainGuidance(), 3.0, on_step=cancel)
    assert len(predictor.calls) == 3


@methods
def test_a_run_writes_into_nothing_it_is_given(method):
    trajectory = make(noise_mask=torch.ones(1, 1, 4, 4, dtype=torch.float64) / 2)
    mask = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    given = [trajectory.states, trajectory.noise_mask, mask]
    before = [(tensor.clone(), tensor._version) for tensor in given]
    sample(trajectory, SmoothNoise(0.5), method, 3.0, mask=mask)
    for tensor, (values, version) in zip(given, before, strict=True):
        assert torch.equal(tensor, values)
        assert tensor._version == version
        assert not tensor.requires_grad


@methods
def test_a_run_leaves_the_random_generators_and_the_gradient_mode_alone(method):
    before = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled()
    sample(make(), SmoothNoise(0.5), method, 3.0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.is_grad_enabled() == before[2]


@methods
def test_the_same_run_twice_is_the_same_bit_for_bit(method):
    trajectory = make()
    first, second = (sample(trajectory, SmoothNoise(0.5), method, 3.0) for _ in range(2))
    assert torch.equal(first, second)


@methods
def test_a_run_in_inference_mode_gives_the_same_bit_for_bit(method):
    expected = sample(make(), SmoothNoise(0.5), method, 3.0)
    with torch.inference_mode():
        trajectory = make()
        assert trajectory.states.is_inference()
        result = sample(trajectory, SmoothNoise(0.5), method, 3.0)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(result, expected)


@methods
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_bad_number_stops_the_run_with_step_and_sigma(method, value):
    trajectory, counted = make(), SmoothNoise(0.5)
    sample(trajectory, counted, method, 3.0)
    per_step = len(counted.calls) // STEPS
    sigma = f"{SCHEDULE.levels[-3].k_sigma:.4g}"
    # The first call of the third step, whichever pass of the step that is.
    predictor = FailingNoise(SmoothNoise(0.5), 2 * per_step, value)
    with pytest.raises(NotFinite, match=rf"step 3 of {STEPS} \(sigma {sigma}\).*of 96;"):
        sample(trajectory, predictor, method, 3.0)


@pytest.mark.parametrize("text_scale", [-0.1, math.nan, math.inf], ids=str)
def test_a_text_scale_that_is_none_is_refused_before_the_first_call(text_scale):
    predictor = SmoothNoise()
    with pytest.raises(InvalidInput, match=rf"^text_scale .*Got {text_scale};"):
        sample(make(), predictor, PlainGuidance(), text_scale)
    assert predictor.calls == []


@pytest.mark.parametrize("text_scale", [0.0, 0.5, 1.0], ids=str)
@methods
def test_text_scales_up_to_one_are_scales(method, text_scale):
    assert sample(make(), SmoothNoise(0.5), method, text_scale).isfinite().all()


@pytest.mark.parametrize(
    "shape", [(4, 4), (1, 4, 4), (1, 3, 4, 4), (3, 1, 4, 4), (1, 1, 4, 5)], ids=str
)
def test_a_mask_that_does_not_fit_is_refused_with_its_shape(shape):
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InvalidInput, match=rf"^mask .*Got {got}; expected \(1 or 2, 1, 4, 4\)"):
        sample(make(), SmoothNoise(), fused_guidance(*SCALES), 3.0, mask=torch.ones(shape))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_mask_may_be_one_for_all_samples_or_one_each(batch):
    mask = torch.ones(batch, 1, 4, 4)
    assert sample(make(), SmoothNoise(), fused_guidance(*SCALES), 3.0, mask=mask).shape == SHAPE


def test_a_method_without_a_hold_puts_the_picture_back_outside_the_mask():
    method = PlainGuidance()
    mask = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.float64)
    mask[..., 1], mask[..., 2:] = 0.5, 1
    trajectory, seen = make(), []
    run = sample(trajectory, SmoothNoise(0.5), method, 5.0, mask=mask, on_step=seen.append)
    for event in seen:
        recorded = trajectory.states[STEPS - 1 - event.index]
        assert torch.equal(event.x[..., 0], recorded[..., 0])
    change = (run - trajectory.states[0]).abs().mean((0, 1, 2))
    assert 0 < change[1] < change[2:].min()
    ones = sample(trajectory, SmoothNoise(0.5), method, 5.0, mask=torch.ones_like(mask))
    assert torch.equal(ones, sample(trajectory, SmoothNoise(0.5), method, 5.0))


@methods
def test_outside_the_noise_mask_every_state_is_the_recorded_one_bit_for_bit(method):
    inside = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    inside[..., 1:3, 1:3] = 1
    trajectory, events = make(noise_mask=inside), []
    result = sample(trajectory, SmoothNoise(0.5), method, 5.0, on_step=events.append)
    outside = (inside == 0).expand(SHAPE)
    for event in events:
        recorded = trajectory.states[STEPS - 1 - event.index]
        assert torch.equal(event.x[outside], recorded[outside])
    assert torch.equal(result[outside], trajectory.states[0][outside])
    assert not torch.isclose(result[~outside], trajectory.states[0][~outside]).any()


def test_a_noise_mask_of_ones_changes_nothing_but_rounding():
    plain = sample(make(), SmoothNoise(0.5), PlainGuidance(), 3.0)
    ones = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    masked = sample(make(noise_mask=ones), SmoothNoise(0.5), PlainGuidance(), 3.0)
    torch.testing.assert_close(masked, plain, rtol=0, atol=1e-12)


def test_between_0_and_1_a_noise_mask_is_that_of_an_inpainting_sampler():
    """ComfyUI's rule written out, in its own scale: on a path of one noise at every level."""
    mask = torch.linspace(0, 1, 4, dtype=torch.float64).expand(1, 1, 4, 4)
    clean, drawn = noise(*SHAPE), noise(*SHAPE, seed=1)
    states = [level.alpha * clean + level.sigma * drawn for level in SCHEDULE.levels]
    trajectory = replace(make(noise_mask=mask), states=torch.stack(states))
    predictor = SmoothNoise(0.5)
    x = clean + SCHEDULE.levels[-1].k_sigma * drawn
    for step in SCHEDULE.descent():
        k = step.level.k_sigma
        shown = (mask * x + (1 - mask) * (clean + k * drawn)) * step.level.alpha
        eps = predictor.guided(Request(shown, step.level, 3.0)).eps
        denoised = mask * eps_to_x0(shown, eps, step.level) + (1 - mask) * clean
        x = x + (x - denoised) / k * (step.level_to.k_sigma - k)
    result = sample(trajectory, predictor, PlainGuidance(), 3.0)
    expected = x * SCHEDULE.levels[0].alpha
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


class PutBack(Guidance):
    """A method that puts the recorded state in the place of every step's result."""

    def begin(self, run):
        working = GuidedRun(run)
        working.settle = lambda x, step, eps: run.recorded(step.entry_to, like=x)
        return working


def test_between_0_and_1_what_a_method_makes_of_a_step_is_mixed_and_not_the_step():
    """Here both parts are the recorded state: so is the mixture."""
    mask = torch.linspace(0, 1, 4, dtype=torch.float64).expand(1, 1, 4, 4)
    trajectory, events = make(noise_mask=mask), []
    sample(trajectory, SmoothNoise(0.5), PutBack(), 3.0, on_step=events.append)
    for event in events:
        recorded = trajectory.states[STEPS - 1 - event.index]
        torch.testing.assert_close(event.x, recorded, rtol=0, atol=1e-12)


class Recorder(GuidedRun):
    """A method that notes its moments and moves the last one."""

    def __init__(self, run):
        super().__init__(run)
        self.moments = []

    def prepare(self, x, step):
        self.moments.append(("prepare", step.index))
        return super().prepare(x, step)

    def correct(self, x, step, guided):
        self.moments.append(("correct", step.index))
        return super().correct(x, step, guided)

    def settle(self, x, step, eps):
        self.moments.append(("settle", step.index))
        return super().settle(x, step, eps) + (1 if step.index == STEPS - 1 else 0)


class Recording(Guidance):
    """Another method in the same plug."""

    def begin(self, run):
        self.run = Recorder(run)
        return self.run


def test_any_method_may_be_plugged_in_and_gets_three_moments_of_each_step():
    trajectory, method = make(), Recording()
    guidance: Guidance = method
    result = sample(trajectory, SmoothNoise(0.5), guidance, 3.0)
    expected = [(moment, k) for k in range(STEPS) for moment in ("prepare", "correct", "settle")]
    assert method.run.moments == expected
    assert method.run.run.total == STEPS
    plain = sample(trajectory, SmoothNoise(0.5), PlainGuidance(), 3.0)
    assert torch.equal(result, plain + 1)
