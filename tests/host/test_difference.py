"""Image Difference: numbers of closed form, heat where pictures differ, the part under a mask."""

import importlib
import math

import pytest
import torch
from host_models import random_tensor


@pytest.fixture(scope="module")
def quality(pack):
    return importlib.import_module("nmg_pack.nodes.drawing.quality")


@pytest.fixture
def difference(nodes):
    """(heat, psnr, ssim)"""
    return lambda *inputs: nodes["NMGDifference"].execute(*inputs).result


def pictures(seed, count=1, height=24, width=32):
    return random_tensor((count, height, width, 3), seed).sigmoid()


def test_equal_pictures_are_dark_and_as_alike_as_can_be(difference, quality):
    heat, psnr, ssim = difference(pictures(1), pictures(1))
    assert heat.shape == (1, 24, 32, 3)
    assert torch.allclose(heat, heat[0, 0, 0])
    assert float(heat.max()) < 0.35
    assert psnr == quality.EQUAL_DB
    assert ssim == pytest.approx(1)


def test_psnr_is_of_all_numbers_of_a_picture(difference):
    first = 0.8 * pictures(1)
    assert difference(first, first + 0.1)[1] == pytest.approx(20, abs=1e-3)
    other = first.clone()
    other[..., 0] += 0.1  # one of three colours
    assert difference(first, other)[1] == pytest.approx(20 + 10 * math.log10(3), abs=1e-3)


def test_of_a_batch_the_numbers_are_means_and_one_picture_is_compared_with_each(difference):
    pair = torch.cat([pictures(1), pictures(2)])
    each = [difference(one[None], pictures(3)) for one in pair]
    heat, psnr, ssim = difference(pictures(3), pair)
    assert torch.equal(heat, torch.cat([one[0] for one in each]))
    assert psnr == pytest.approx(sum(one[1] for one in each) / 2)
    assert ssim == pytest.approx(sum(one[2] for one in each) / 2)


def test_ssim_of_two_flat_pictures_is_that_of_their_brightness(difference):
    a, b, c1 = 0.3, 0.5, 0.01**2
    flat = [torch.full((1, 16, 16, 3), value) for value in (a, b)]
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert difference(*flat)[2] == pytest.approx(expected, abs=1e-6)


def test_ssim_is_the_formula_of_its_paper_in_one_window(difference):
    a, b = pictures(1, 1, 11, 11), pictures(2, 1, 11, 11)
    across = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    weights = (across[:, None] * across)[..., None] / across.sum() ** 2
    x, y = a[0].double(), b[0].double()

    def mean(values):
        return (weights * values).sum((0, 1))

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    each = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert difference(a, b)[2] == pytest.approx(float(each.mean()), abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 9), (10, 40)])
def test_a_picture_smaller_than_a_window_has_numbers_too(difference, height, width):
    first, second = (pictures(seed, 1, height, width) for seed in (1, 2))
    assert -1 <= difference(first, second)[2] < 1
    assert difference(first, first)[2] == pytest.approx(1)


def test_heat_is_bright_where_they_differ_and_means_the_same_in_every_picture(difference):
    first = torch.full((2, 24, 32, 3), 0.4)
    second = first.clone()
    second[0, 4:8, 4:8] += 0.05
    second[1, 4:8, 4:8] += 0.5
    second[1, 12:16, 4:8] += 0.05
    heat = difference(first, second)[0]
    assert torch.equal(heat[0, 5, 5], heat[1, 13, 5])
    brightness = heat.mean(-1)
    assert brightness[0, 20, 20] < brightness[0, 5, 5] < brightness[1, 5, 5]


def test_under_a_mask_nothing_else_counts(difference):
    first = 0.5 * pictures(1)
    second = first.clone()
    second[:, :, 16:] += 0.4
    left, right = torch.zeros(1, 24, 32), torch.zeros(1, 24, 32)
    left[..., :14] = 1
    right[..., 18:] = 1
    heat, psnr, ssim = difference(first, second, left)
    assert (psnr, torch.unique(heat.mean(-1)).numel()) == (100, 1)
    assert ssim > difference(first, second)[2]
    assert difference(first, second, right)[1] == pytest.approx(-20 * math.log10(0.4), abs=1e-3)


def test_a_mask_of_any_size_is_fitted(difference):
    first, second = pictures(1), pictures(2)
    whole = difference(first, second)
    for mask in (torch.ones(1, 3, 4), torch.ones(48, 64)):
        heat, *numbers = difference(first, second, mask)
        assert torch.equal(heat, whole[0])
        assert numbers == pytest.approx(list(whole[1:]))


def test_transparency_is_left_out(difference):
    clear = torch.cat([pictures(1), torch.zeros(1, 24, 32, 1)], -1)
    assert difference(clear, pictures(1))[1] == 100


@pytest.mark.parametrize(
    ("other", "mask", "words"),
    [
        (pictures(2, 1, 24, 24), None, "1 picture of 24 x 24 pixels; expected 2 pictures of 32 x"),
        (pictures(2, 3), None, "3 pictures of 32 x 24 pixels; expected 2 pictures"),
        (pictures(2), torch.zeros(1, 24, 32), "mask covers nothing"),
        (pictures(2), torch.ones(3, 24, 32), "3 masks; expected 1 or 2"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(difference, other, mask, words):
    with pytest.raises(ValueError, match="^Image Difference: ") as refusal:
        difference(pictures(1, 2), other, mask)
    assert words in str(refusal.value)


def test_the_inputs_are_left_as_they_were(difference):
    first, second = pictures(1), pictures(2)
    difference(first, second, torch.ones(1, 24, 32))
    assert torch.equal(first, pictures(1))
    assert torch.equal(second, pictures(2))


def test_grey_is_compared_as_red_green_and_blue(difference):
    colours = pictures(1)
    grey = pictures(2)[..., :1]
    got = difference(grey, colours)
    expected = difference(grey.expand(-1, -1, -1, 3), colours)
    assert torch.equal(got[0], expected[0])
    assert got[1:] == expected[1:]
