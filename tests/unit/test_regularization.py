"""Predicted noise made whiter: the two losses, their gradients, and what they do to noise."""

import pytest
import torch
from toys import noise

from nmg_sampler import InvalidInput
from nmg_sampler.methods import (
    NoiseRegularization,
    auto_correlation,
    auto_correlation_gradient,
    draw_shifts,
    kl_divergence,
    kl_gradient,
)

# Float64 rounding of sums of about 1000 numbers of size 1.
EXACT = {"rtol": 0, "atol": 1e-12}

SIZES = [(16, 16), (64, 64), (12, 20), (9, 17), (40, 9), (8, 8), (5, 7), (2, 3), (1, 9), (1, 1)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def white(*shape, seed=0):
    """Noise of mean 0 and variance 1 to the last digit, per sample."""
    x = noise(*shape, seed=seed)
    rest = tuple(range(1, x.ndim))
    return (x - x.mean(rest, keepdim=True)) / x.std(rest, keepdim=True)


def slope_of(loss, x):
    """The gradient of a loss by autograd."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return gradient


def test_the_divergence_of_white_noise_is_nearly_zero():
    assert float(kl_divergence(noise(1, 4, 64, 64))) == pytest.approx(0, abs=1e-3)
    # What is left is the floor under the logarithm.
    assert float(kl_divergence(white(1, 4, 64, 64))) == pytest.approx(0, abs=2e-7)


def test_the_divergence_is_that_of_the_wrong_scale_and_the_wrong_mean():
    x = white(1, 4, 64, 64)
    assert float(kl_divergence(2 * x)) == pytest.approx(1.6137, abs=1e-4)  # 4 - 1 - log 4
    assert float(kl_divergence(x + 1)) == pytest.approx(1, abs=1e-4)


def test_the_auto_correlation_of_white_noise_is_that_of_chance():
    draws = generator()
    values = [
        float(auto_correlation(noise(1, 4, 64, 64, seed=seed), draw_shifts(64, 64, draws)))
        for seed in range(50)
    ]
    # Two directions, four channels, a mean of n products of variance v^2: 8 * sum of v^2 / n.
    expected = 8 * sum((1 / 4**level) ** 2 / (4096 / 4**level) for level in range(4))
    assert expected == pytest.approx(2.6e-3, abs=1e-4)
    assert sum(values) / 50 == pytest.approx(expected, rel=0.15)  # three standard errors


def test_the_auto_correlation_of_a_constant_counts_channels_levels_and_directions():
    shifts = draw_shifts(64, 64, generator())
    assert auto_correlation(torch.ones(2, 4, 64, 64), shifts).tolist() == [32.0, 32.0]


def test_the_auto_correlation_is_that_of_the_loop_written_out():
    x, shifts = noise(1, 2, 18, 16), [(3, 1), (2, 3)]
    total = 0.0
    for channel in x[0]:
        for down, across in shifts:
            height, width = channel.shape
            for dy, dx in ((down, 0), (0, across)):
                products = [
                    channel[i, j] * channel[(i - dy) % height, (j - dx) % width]
                    for i in range(height)
                    for j in range(width)
                ]
                total += (sum(products) / len(products)) ** 2
            channel = channel.unfold(0, 2, 2).unfold(1, 2, 2).mean((-2, -1))
    torch.testing.assert_close(auto_correlation(x, shifts), total.reshape(1), **EXACT)


@sizes
def test_gradients_in_closed_form_are_those_of_autograd(size):
    x, shifts = noise(2, 3, *size) + 0.3, draw_shifts(*size, generator())
    torch.testing.assert_close(
        auto_correlation_gradient(x, shifts),
        slope_of(lambda leaf: auto_correlation(leaf, shifts), x)
        if max(size) > 1
        else torch.zeros_like(x),
        **EXACT,
    )
    torch.testing.assert_close(kl_gradient(x), slope_of(kl_divergence, x), **EXACT)


@pytest.mark.parametrize(
    ("size", "levels"),
    [((64, 64), 4), ((128, 64), 4), ((65, 65), 4), ((12, 12), 2), ((9, 90), 2), ((8, 8), 1)]
    + [((7, 3), 1), ((1, 64), 1)],
    ids=str,
)
def test_the_pyramid_ends_where_the_shorter_side_is_8_or_less(size, levels):
    assert len(draw_shifts(*size, generator())) == levels


@sizes
def test_shifts_are_from_1_to_below_half_of_each_side(size):
    draws = generator()
    many = [draw_shifts(*size, draws) for _ in range(200)]
    for level in range(len(many[0])):
        for axis, side in enumerate(size):
            half = max(2, (side >> level) // 2)
            assert {shifts[level][axis] for shifts in many} == set(range(1, half))


def test_five_rounds_at_512_pixels_are_gentle():
    only = NoiseRegularization(auto_correlation=0.0)
    assert float(only(2 * white(1, 4, 64, 64), generator()).std()) == pytest.approx(1.982, abs=1e-3)
    assert float(only(2 * white(1, 4, 16, 16), generator()).std()) == pytest.approx(1.73, abs=1e-2)
    assert float(only(2 * white(1, 4, 8, 8), generator()).std()) == pytest.approx(1.23, abs=1e-2)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_mean_and_variance_move_towards_those_of_white_noise(scale):
    x = scale * white(1, 4, 16, 16) + 0.5
    once, often = (NoiseRegularization(count)(x, generator()) for count in (1, 50))
    assert abs(float(x.std()) - 1) > abs(float(once.std()) - 1) > abs(float(often.std()) - 1)
    assert 0.5 > float(once.mean()) > float(often.mean()) > 0
    assert float(often.std()) == pytest.approx(1, abs=0.03)


def test_neighbours_become_less_alike():
    x = noise(1, 4, 16, 16)
    x = white(1, 4, 16, 16) + x.roll(1, -1) + x.roll(1, -2)  # blurred
    shifts = [[(k, k), (1, 1)] for k in range(1, 8)]
    before, after = (
        float(sum(auto_correlation(each, shift) for shift in shifts))
        for each in (x, NoiseRegularization(kl=0.0)(x, generator()))
    )
    assert after < 0.7 * before


def test_noise_that_is_white_hardly_changes():
    x = white(1, 4, 64, 64)
    assert float((NoiseRegularization()(x, generator()) - x).abs().max()) < 0.02


@sizes
def test_any_size_stays_finite_and_keeps_its_shape(size):
    x = noise(3, 4, *size, dtype=torch.float32)
    result = NoiseRegularization()(x, generator())
    assert result.shape == x.shape
    assert bool(torch.isfinite(result).all())


def test_a_batch_of_two_equals_two_singles_under_the_same_shifts():
    x, method = noise(2, 4, 16, 12) + 0.3, NoiseRegularization()
    singles = [method(x[k : k + 1], generator()) for k in range(2)]
    torch.testing.assert_close(method(x, generator()), torch.cat(singles), **EXACT)


def test_the_input_is_not_written_to_and_the_global_generator_not_asked():
    x, state = noise(2, 4, 16, 16), torch.get_rng_state()
    before, version = x.clone(), x._version
    NoiseRegularization()(x, generator())
    assert torch.equal(x, before)
    assert x._version == version
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_bits_and_a_later_step_other_shifts():
    x, method, draws = noise(1, 4, 16, 16), NoiseRegularization(), generator(3)
    first, second = method(x, draws), method(x, draws)
    assert torch.equal(first, method(x, generator(3)))
    assert not torch.equal(first, second)


def test_no_iterations_are_neutral_and_so_are_strengths_of_zero():
    x = noise(1, 4, 16, 16)
    assert torch.equal(NoiseRegularization(0)(x, generator()), x)
    assert torch.equal(NoiseRegularization(5, 0.0, 0.0)(x, generator()), x)


def test_inference_mode_gives_the_same_numbers():
    x = noise(1, 4, 16, 16)
    with torch.inference_mode():
        result = NoiseRegularization()(x, generator())
    assert torch.equal(result, NoiseRegularization()(x, generator()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    x = (2 * noise(1, 4, 16, 16)).to(dtype)
    result = NoiseRegularization()(x, generator())
    assert result.dtype == dtype
    assert torch.equal(result, NoiseRegularization()(x.float(), generator()).to(dtype))


@pytest.mark.parametrize(
    ("setting", "value", "got"),
    [
        ("iterations", -1, "-1"),
        ("rolls", 0, "0"),
        ("kl", -0.5, "-0.5"),
        ("auto_correlation", float("nan"), "nan"),
        ("kl", float("inf"), "inf"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(setting, value, got):
    with pytest.raises(InvalidInput, match=f"^{setting} .*Got {got};"):
        NoiseRegularization(**{setting: value})


def test_noise_that_is_no_picture_is_refused():
    with pytest.raises(InvalidInput, match=r"Got \(1, 4, 2, 8, 8\); expected \(batch, channels"):
        NoiseRegularization()(noise(1, 4, 2, 8, 8), generator())
