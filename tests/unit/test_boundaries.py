"""Where a run or a file could go wrong silently: each of these was a defect once."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toys import IDENTITY, Counting, SmoothNoise, geometric_sigmas, noise, training_levels
from toys import edit_of as sample

from nmg_sampler import (
    Gradient,
    InvalidInput,
    Loss,
    Mode,
    NoiseMapGuidance,
    NotDifferentiable,
    PlainGuidance,
    Trajectory,
    energy,
    fused_guidance,
    invert,
    load_trajectory,
    official_schedule,
    save_trajectory,
    schedule_from_sigmas,
)

SCHEDULE = schedule_from_sigmas("x", geometric_sigmas(8))
SHAPE = (2, 3, 4, 4)
FUSED_FULL = NoiseMapGuidance(10.0, 5000.0, Mode.FUSED, Gradient.FULL)


def make(dtype=torch.float64, shape=SHAPE, **fields):
    states = invert(noise(*shape, dtype=dtype), SCHEDULE, SmoothNoise())
    return Trajectory(states.detach(), SCHEDULE, IDENTITY, **fields)


def test_a_loaded_trajectory_does_not_change_with_its_file(tmp_path):
    path, original = tmp_path / "x", make(torch.float32, (1, 4, 64, 64))
    save_trajectory(original, path)
    loaded = load_trajectory(path)
    with open(path, "r+b") as file:
        file.seek(-200_000, os.SEEK_END)
        file.write(bytes(100_000))
    assert torch.equal(loaded.states, original.states)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_states_come_back_or_are_refused_when_saved(tmp_path, dtype):
    trajectory = Trajectory(make(torch.float32).states.to(dtype), SCHEDULE, IDENTITY)
    try:
        save_trajectory(trajectory, tmp_path / "x")
    except InvalidInput:
        return
    assert load_trajectory(tmp_path / "x").states.dtype == dtype


def test_states_too_large_for_the_files_dtype_are_refused_when_saved(tmp_path):
    trajectory = Trajectory(make(torch.float32).states * 1e6, SCHEDULE, IDENTITY)
    with pytest.raises(InvalidInput, match="states"):
        save_trajectory(trajectory, tmp_path / "x", torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"start": float("inf")}, {"levels": [[10**400, 0.1]] * 9}, {"start": 99}],
    ids=["infinite start", "huge number", "start beyond the levels"],
)
def test_numbers_in_a_header_that_cannot_be_are_refused_with_the_files_name(tmp_path, change):
    path = tmp_path / "cat"
    save_trajectory(make(torch.float32), path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    header = json.loads(metadata["header"])
    header["schedule"] |= change
    save_file(tensors, path, metadata | {"header": json.dumps(header)})
    with pytest.raises(InvalidInput, match="^trajectory file cat"):
        load_trajectory(path)


@pytest.mark.parametrize("kind", ["sparse", "circle"])
def test_unusual_conditioning_is_refused_as_such(tmp_path, kind):
    source = [torch.ones(2, 2).to_sparse()] if kind == "sparse" else []
    if kind == "circle":
        source.append(source)
    with pytest.raises(InvalidInput, match="^trajectory source"):
        save_trajectory(make(source=source), tmp_path / "x")


@pytest.mark.parametrize(
    ("field", "value"),
    [("mode", "official"), ("gradient", "direct"), ("loss", "l1"), ("reference", "current")],
)
def test_a_choice_by_its_name_is_that_choice(field, value):
    """Or refused, if the maintainer prefers; never another choice."""
    choices = {
        "mode": Mode.FUSED,
        "gradient": Gradient.FULL,
        "loss": Loss.L2,
    } | {field: value}
    member = {"mode": Mode, "gradient": Gradient, "loss": Loss}.get(field)
    by_name = NoiseMapGuidance(10.0, 500.0, **choices)
    if member is not None:
        choices[field] = member(value)
    else:
        from nmg_sampler import Reference

        choices[field] = Reference(value)
    by_member = NoiseMapGuidance(10.0, 500.0, **choices)
    results = [sample(make(), SmoothNoise(0.5), g, 3.0) for g in (by_name, by_member)]
    assert torch.equal(*results)


@pytest.mark.parametrize("field", ["mode", "gradient", "loss", "reference"])
def test_an_unknown_choice_is_refused_by_name_and_value(field):
    choices = {"mode": Mode.FUSED, "gradient": Gradient.FULL} | {field: "huber"}
    with pytest.raises(InvalidInput, match=f"^{field} .*huber"):
        NoiseMapGuidance(10.0, 500.0, **choices)


def test_an_energy_by_its_name_is_that_energy():
    x, reference = noise(1, 2, 2), noise(1, 2, 2, seed=1)
    assert torch.equal(energy(x, reference, "l1"), energy(x, reference, Loss.L1))


class DetachedTrainable(Counting):
    """A cut graph behind weights that are trained: the prediction still says requires_grad."""

    def __init__(self):
        super().__init__()
        self.weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def noise_of(self, x, level, prompt):
        return self.weight * x.detach()


def test_a_cut_graph_is_refused_even_if_the_weights_want_a_gradient():
    with pytest.raises(NotDifferentiable, match="'full'"):
        sample(make(), DetachedTrainable(), FUSED_FULL, 3.0)


def test_no_run_keeps_a_graph_of_the_weights():
    predictor = DetachedTrainable()
    assert not invert(noise(*SHAPE), SCHEDULE, predictor).requires_grad
    assert not sample(make(), predictor, PlainGuidance(), 3.0).requires_grad


def test_a_noise_mask_of_ones_is_no_noise_mask_bit_for_bit():
    plain = sample(make(torch.float32), SmoothNoise(0.5), PlainGuidance(), 3.0)
    masked = make(torch.float32, noise_mask=torch.ones(1, 1, 4, 4))
    assert torch.equal(sample(masked, SmoothNoise(0.5), PlainGuidance(), 3.0), plain)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 5, 5), (3, 1, 4, 4), (1, 3, 4, 4)], ids=str)
def test_a_noise_mask_that_does_not_fit_is_refused_with_its_shape(shape):
    with pytest.raises(InvalidInput, match="noise_mask"):
        make(noise_mask=torch.ones(shape))


@pytest.mark.parametrize("value", [float("nan"), -0.5, 2.0], ids=str)
def test_a_mask_outside_zero_to_one_is_refused(value):
    mask = torch.full((1, 1, 4, 4), value)
    with pytest.raises(InvalidInput, match="^mask"):
        sample(make(), SmoothNoise(), fused_guidance(10.0, 500.0), 3.0, mask=mask)
    with pytest.raises(InvalidInput, match="noise_mask"):
        make(noise_mask=mask)


def test_as_many_official_steps_as_timesteps_are_refused_as_steps():
    with pytest.raises(InvalidInput, match=r"^steps .*Got 1000; expected 2 to 999"):
        official_schedule(training_levels(), 1000)


def test_a_schedule_that_would_ask_at_sigma_zero_is_refused():
    with pytest.raises(InvalidInput):
        official_schedule([1.0, *training_levels()[1:]], 10)
