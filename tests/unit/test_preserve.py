"""Exact preservation: what a mask becomes, and which pixels are whose, bit for bit."""

import pytest
import torch
from scipy.ndimage import distance_transform_edt

from nmg_sampler import Branches, InvalidInput
from nmg_sampler.pixels import (
    Combine,
    branches_of,
    composite,
    feather_mask,
    fit_mask,
    grow_mask,
    soft_mask,
)

SIZE = (37, 29)
ONE = Branches(1)
ROUNDING = {"rtol": 0, "atol": 1e-6}


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def points(*places, size=SIZE):
    """(1, H, W): white at these (row, column), black elsewhere."""
    mask = torch.zeros(1, *size)
    for place in places:
        mask[(0, *place)] = 1
    return mask


SCATTERED = points((0, 0), (12, 9), (13, 9), (30, 28), (36, 3))


def distances(mask):
    """(1, H, W) Euclidean distance of each pixel to the nearest one that is not black."""
    return torch.from_numpy(distance_transform_edt(mask[0].numpy() == 0))[None].float()


# --- Sizes ---------------------------------------------------------------------------------------


def test_a_mask_that_fits_is_taken_as_it_is():
    mask = rand(2, *SIZE)
    assert torch.equal(fit_mask("mask", mask, SIZE), mask)
    assert torch.equal(fit_mask("mask", mask[0], SIZE), mask[:1])
    assert torch.equal(fit_mask("mask", mask.double(), SIZE), mask)


@pytest.mark.parametrize("given", [(1, 1), (5, 7), (64, 64), (300, 211), (37, 400)])
def test_black_and_white_stay_so_at_any_size(given):
    for value in (0.0, 1.0):
        fitted = fit_mask("mask", torch.full((2, *given), value), SIZE)
        assert torch.equal(fitted, torch.full((2, *SIZE), value))


def test_a_thin_line_does_not_vanish_when_the_mask_is_made_smaller():
    for row in range(8):
        line = torch.zeros(1, 64, 64)
        line[:, row + 16] = 1
        fitted = fit_mask("mask", line, (8, 8))
        assert float(fitted.sum()) == pytest.approx(1, rel=1e-5)


def test_values_beyond_the_range_are_clamped():
    assert fit_mask("mask", torch.tensor([[[-0.5, 1.5]]]), (1, 2)).tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_mask_is_refused_by_name(bad):
    mask = points()
    mask[0, 3, 3] = bad
    with pytest.raises(InvalidInput, match=r"^words is not finite"):
        fit_mask("words", mask, SIZE)
    with pytest.raises(InvalidInput, match=r"^words is no mask. Got \(0, 4, 4\)"):
        fit_mask("words", torch.zeros(0, 4, 4), SIZE)


# --- Growing and shrinking -----------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [1, 2, 5, 9, 50])
def test_a_mask_grows_by_a_disc(pixels):
    assert torch.equal(
        grow_mask(SCATTERED, pixels), (distances(SCATTERED) <= pixels).to(torch.float32)
    )


@pytest.mark.parametrize("pixels", [1, 4])
def test_shrinking_is_growing_of_the_rest_and_keeps_away_from_no_border(pixels):
    mask = 1 - SCATTERED
    assert torch.equal(grow_mask(mask, -pixels), 1 - grow_mask(SCATTERED, pixels))
    assert torch.equal(grow_mask(torch.ones(1, *SIZE), -pixels), torch.ones(1, *SIZE))


def test_a_soft_mask_grows_softly():
    low, high = 0.3 * points((10, 10)), 0.7 * points((10, 14))
    both = grow_mask(torch.maximum(low, high), 3)
    assert torch.equal(both, torch.maximum(grow_mask(low, 3), grow_mask(high, 3)))
    assert set(both.unique().tolist()) == set(torch.tensor([0, 0.3, 0.7]).tolist())


def test_no_growth_and_no_feather_are_the_mask_itself():
    mask = rand(2, *SIZE)
    assert grow_mask(mask, 0) is mask
    assert feather_mask(mask, 0) is mask


# --- Feather -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [1, 2, 7, 60])
def test_a_feather_falls_evenly_and_ends_where_it_says(pixels):
    soft, distance = feather_mask(SCATTERED, pixels), distances(SCATTERED)
    expected = (1 - distance / (pixels + 1)) * (distance <= pixels)
    torch.testing.assert_close(soft, expected, **ROUNDING)
    assert torch.equal(soft > 0, distance <= pixels)
    assert torch.equal(soft == 1, SCATTERED == 1)


@pytest.mark.parametrize("pixels", [1, 6])
def test_a_feather_only_adds_and_reaches_no_further_from_grey(pixels):
    mask = rand(1, *SIZE) * SCATTERED
    soft = feather_mask(mask, pixels)
    assert bool((soft >= mask).all())
    assert not soft[distances(mask) > pixels].any()
    whole = feather_mask(SCATTERED, pixels)
    assert bool((soft <= whole).all())


def test_a_soft_mask_is_feathered_by_its_formula():
    """Every pixel against every other one."""
    pixels, height, width = 4, 11, 9
    mask = rand(1, height, width) * (rand(1, height, width, seed=1) > 0.8)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
    squared = (places[:, None] - places[None]).square().sum(-1)
    below = ((pixels + 1) * (1 - mask.flatten())).square()
    distance = (squared + below).amin(-1).sqrt()
    edge = (1 - distance / (pixels + 1)) * (distance <= pixels)
    expected = torch.maximum(mask, edge.reshape(mask.shape))
    torch.testing.assert_close(feather_mask(mask, pixels), expected, **ROUNDING)
    assert float((expected - mask).max()) > 0.3


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_an_even_mask_stays_even(value):
    mask = torch.full((1, *SIZE), value)
    torch.testing.assert_close(feather_mask(mask, 9), mask, **ROUNDING)
    if value in (0, 1):
        assert torch.equal(feather_mask(mask, 9), mask)


def test_a_batch_of_masks_is_each_alone_and_nothing_given_is_written_to():
    masks = torch.cat([SCATTERED, rand(1, *SIZE)])
    before = masks.clone()
    for shape in (
        lambda m: grow_mask(m, 4),
        lambda m: grow_mask(m, -4),
        lambda m: feather_mask(m, 4),
    ):
        both = shape(masks)
        assert torch.equal(both, torch.cat([shape(masks[:1]), shape(masks[1:])]))
    assert torch.equal(masks, before)


def test_a_negative_feather_is_refused():
    with pytest.raises(InvalidInput, match=r"^feather leaves its range. Got -1"):
        feather_mask(SCATTERED, -1)


# --- The mask that is used -----------------------------------------------------------------------


@pytest.mark.parametrize(("grow", "feather"), [(0, 0), (3, 0), (0, 5), (3, 5), (-2, 4), (-2, 1)])
def test_it_is_black_beyond_grow_and_feather(grow, feather):
    mask = points((12, 9), (13, 9))
    mask[:, 20:30, 5:20] = rand(10, 15)
    soft = soft_mask(mask, SIZE, ONE, grow=grow, feather=feather)
    assert not soft[distances(mask) > max(grow + feather, 0)].any()
    if grow >= 0:
        assert bool((soft >= mask).all())


def test_intersection_and_union_of_masks_of_two_sizes():
    left, top = torch.zeros(1, *SIZE), torch.zeros(1, 2, 1)
    left[..., :10], top[:, 0] = 0.6, 0.5
    fitted = fit_mask("words", top, SIZE)
    both = soft_mask(left, SIZE, ONE, words=top)
    either = soft_mask(left, SIZE, ONE, words=top, combine=Combine.UNION)
    assert torch.equal(both, torch.minimum(left, fitted))
    assert torch.equal(either, torch.maximum(left, fitted))
    assert not torch.equal(both, either)


def test_masks_are_one_or_one_per_picture_or_one_per_edit():
    branches = Branches(2, 3)
    per_picture, per_edit = rand(2, *SIZE), rand(6, *SIZE)
    assert torch.equal(soft_mask(per_picture[:1], SIZE, branches), per_picture[:1])
    assert torch.equal(soft_mask(per_picture, SIZE, branches), per_picture.repeat(3, 1, 1))
    assert torch.equal(soft_mask(per_edit, SIZE, branches), per_edit)
    both = soft_mask(per_picture, SIZE, branches, words=per_edit)
    assert torch.equal(both, torch.minimum(per_picture.repeat(3, 1, 1), per_edit))
    wrong = (
        r"^words does not fit the pictures. Got 3 masks for 6 edits of 2 pictures; expected 1 or"
    )
    with pytest.raises(InvalidInput, match=wrong):
        soft_mask(per_picture, SIZE, branches, words=per_edit[:3])


# --- The composite -------------------------------------------------------------------------------


def bits(image):
    """The bit pattern of float32 pictures: -0 and 0 are two."""
    return image.contiguous().view(torch.int32)


def test_outside_the_original_inside_the_edit_bit_for_bit_and_between_a_mixture():
    original, edited = rand(1, *SIZE, 3, seed=1), rand(1, *SIZE, 3, seed=2)
    mask = feather_mask(points((12, 9), (13, 9)), 5)
    result = composite(original, edited, mask)
    outside, inside = mask == 0, mask == 1
    between = ~(outside | inside)
    assert torch.equal(bits(result[outside]), bits(original[outside]))
    assert torch.equal(bits(result[inside]), bits(edited[inside]))
    share = mask[between][:, None]
    mixed = (1 - share) * original[between] + share * edited[between]
    torch.testing.assert_close(result[between], mixed, **ROUNDING)


def test_what_the_edit_is_outside_does_not_matter():
    original = rand(1, *SIZE, 3)
    original[0, 0, 0] = -0.0
    mask = points((12, 9))
    for value in (float("nan"), float("inf"), -5.0):
        edited = torch.full_like(original, value)
        result = composite(original, edited, mask)
        assert torch.equal(bits(result[mask == 0]), bits(original[mask == 0]))


def test_an_empty_mask_is_the_original_and_a_full_one_the_edit():
    original, edited = rand(2, *SIZE, 3, seed=1), rand(2, *SIZE, 3, seed=2)
    none, all_of_it = (torch.full((1, *SIZE), value) for value in (0.0, 1.0))
    assert torch.equal(bits(composite(original, edited, none)), bits(original))
    assert torch.equal(bits(composite(original, edited, all_of_it)), bits(edited))


def test_alpha_is_that_of_the_original_everywhere():
    colours, alpha = rand(1, *SIZE, 3, seed=1), rand(1, *SIZE, 1, seed=2)
    original = torch.cat([colours, alpha], -1)
    mask = rand(1, *SIZE, seed=3)
    for channels in (3, 4):
        edited = rand(1, *SIZE, channels, seed=4)
        result = composite(original, edited, mask)
        assert torch.equal(bits(result[..., 3:]), bits(alpha))
        assert torch.equal(result[..., :3], composite(colours, edited[..., :3], mask))
        assert composite(colours, edited, mask).shape[-1] == 3


@pytest.mark.parametrize("channels", [1, 2])
def test_a_grey_original_keeps_its_grey_outside_and_takes_the_colours_inside(channels):
    original, edited = rand(1, *SIZE, channels, seed=1), rand(1, *SIZE, 3, seed=4)
    mask = rand(1, *SIZE, seed=3).round()
    result = composite(original, edited, mask)
    assert result.shape[-1] == channels + 2
    for colour in range(3):
        outside = result[..., colour][mask == 0]
        assert torch.equal(bits(outside), bits(original[..., 0][mask == 0]))
    assert torch.equal(result[..., :3][mask == 1], edited[mask == 1])
    assert torch.equal(result[..., 3:], original[..., 1:])


@pytest.mark.parametrize("channels", [1, 2])
def test_a_grey_edit_is_that_grey_in_all_colours(channels):
    original, edited = rand(1, *SIZE, 4, seed=1), rand(1, *SIZE, channels, seed=4)
    result = composite(original, edited, torch.ones(1, *SIZE))
    assert torch.equal(result[..., :3], edited[..., :1].expand(-1, -1, -1, 3))
    assert torch.equal(result[..., 3], original[..., 3])


def test_several_edits_lie_target_after_target():
    original, edited = rand(2, *SIZE, 3, seed=1), rand(6, *SIZE, 3, seed=2)
    mask = rand(6, *SIZE, seed=3)
    assert branches_of(original, edited) == Branches(2, 3)
    together = composite(original, edited, mask)
    for row in range(6):
        one = slice(row, row + 1)
        alone = composite(original[row % 2][None], edited[one], mask[one])
        assert torch.equal(together[one], alone)


def test_the_result_has_the_type_of_the_original_and_is_new():
    original, edited = rand(1, *SIZE, 3).half(), rand(1, *SIZE, 3, seed=2)
    result = composite(original, edited, torch.zeros(1, *SIZE))
    assert result.dtype == torch.float16
    assert torch.equal(result, original)
    result.fill_(0)
    assert original.any()


@pytest.mark.parametrize(
    ("original", "edited", "message"),
    [
        (
            (1, 8, 9, 3),
            (1, 8, 8, 3),
            r"^edited has another size .* Got 8x8; expected 9x8. .*Crop P",
        ),
        ((2, 8, 8, 3), (3, 8, 8, 3), r"^edited does not fit the originals. Got 3 pictures for 2"),
        ((2, 8, 8, 3), (1, 8, 8, 3), r"^edited does not fit the originals. Got 1 pictures for 2"),
        ((1, 8, 8, 3), (0, 8, 8, 3), r"^edited does not fit the originals. Got 0 pictures for 1"),
        ((1, 8, 8, 5), (1, 8, 8, 3), r"^original is no picture. Got \(1, 8, 8, 5\)"),
        ((1, 8, 8, 3), (8, 8, 3), r"^edited is no picture. Got \(8, 8, 3\)"),
    ],
)
def test_pictures_that_do_not_belong_together_are_refused(original, edited, message):
    with pytest.raises(InvalidInput, match=message):
        composite(torch.zeros(original), torch.zeros(edited), torch.zeros(1, 8, 8))
