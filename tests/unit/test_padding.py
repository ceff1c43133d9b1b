"""Padding to the latent grid and back: which pixels, how many, and nothing lost."""

import pytest
import torch

from nmg_sampler import InvalidInput
from nmg_sampler.pixels import FILLS, Padding, padding_to_grid


def picture(height, width, batch=2, channels=4):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, height, width, channels, generator=generator)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (127, 130), (64, 65), (16, 24)], ids=str)
@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_padded_and_cropped_is_the_picture_bit_for_bit(size, multiple, centred, fill):
    image = picture(*size)
    padding = padding_to_grid(*size, multiple, centred)
    padded = padding.pad(image, fill)
    assert padded.shape[1:3] == padding.padded
    assert all(side % multiple == 0 for side in padding.padded)
    assert all(0 <= new - old < multiple for new, old in zip(padding.padded, size, strict=True))
    assert torch.equal(padding.crop("image", padded), image)
    mask = image[..., 0]
    assert torch.equal(padding.pad(mask, fill), padded[..., 0])
    assert torch.equal(padding.crop("mask", padded[..., 0]), mask)


def test_what_fits_is_passed_on_as_it_is():
    image = picture(16, 24)
    padding = padding_to_grid(16, 24, 8)
    assert padding.empty
    assert padding.pad(image) is image
    assert padding.crop("image", image) is image


def test_the_padding_lies_where_it_is_wanted():
    assert padding_to_grid(5, 11, 8) == Padding(5, 11, 0, 0, 3, 5)
    assert padding_to_grid(5, 11, 8, centred=True) == Padding(5, 11, 1, 2, 2, 3)


def test_reflect_mirrors_at_the_border_and_edge_repeats_it():
    row = torch.arange(5.0)[None, None, :, None]
    padding = Padding(1, 5, 0, 2, 0, 3)
    assert padding.pad(row, "reflect").flatten().tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert padding.pad(row, "edge").flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4, 4]


def test_another_size_or_multiple_is_refused_with_what_to_do():
    padding = padding_to_grid(5, 11, 8)
    wrong = r"^image does not have the size that Pad To Grid made. Got 16x16; expected 16x8. Crop"
    with pytest.raises(InvalidInput, match=wrong):
        padding.crop("image", picture(16, 16))
    with pytest.raises(InvalidInput, match=r"^multiple leaves its range. Got 0"):
        padding_to_grid(5, 11, 0)
