"""Exact preservation with the host's own pictures: through VAE and back, only the mask changes."""

import numpy as np
import pytest
import torch
from host_models import first, random_tensor

from demo import scenes

ODD = [(117, 123), (128, 121), (113, 128), (128, 128)]  # (height, width)
BOX = (slice(None), slice(30, 61), slice(41, 90))


@pytest.fixture(scope="module")
def there_and_back(nodes, demo):
    """IMAGE -> pad, encode, something like an edit, decode, crop -> (edit, padding)."""

    def call(image, edits=1, **options):
        vae = demo[2]
        padded, _, padding = nodes["NMGPadToGrid"].execute(image, 8, **options).result
        latent = vae.encode(padded[..., :3])
        decoded = vae.decode(latent.repeat(edits, 1, 1, 1))
        return first(nodes["NMGCropPadding"].execute(decoded, padding)), padding

    return call


def pictures(size, count=1, channels=3):
    """Corners of demo scenes; a fourth channel is noise."""
    rng = np.random.default_rng(0)
    drawn = [torch.from_numpy(scenes.render(scenes.random_scene(rng))) for _ in range(count)]
    image = torch.stack(drawn)[:, : size[0], : size[1]]
    alpha = random_tensor((*image.shape[:3], channels - 3), 9).clamp(0, 1)
    return torch.cat([image, alpha], -1)


def box(size, count=1):
    mask = torch.zeros(count, *size)
    mask[BOX] = 1
    return mask


def reach(pixels):
    """(1, H, W) of the box and what lies within so many pixels of its sides: its corners too."""
    _, rows, columns = BOX
    return (
        slice(None),
        slice(rows.start - pixels, rows.stop + pixels),
        slice(columns.start - pixels, columns.stop + pixels),
    )


def bits(image):
    return image.contiguous().view(torch.int32)


def composite(nodes, original, edited, mask, grow=0, feather=0, **options):
    run = nodes["NMGCompositeOriginal"].execute(
        original, edited, mask, grow=grow, feather=feather, **options
    )
    return run.result


@pytest.mark.parametrize("place", ["right and bottom", "all around"])
@pytest.mark.parametrize("size", ODD, ids=str)
def test_through_the_vae_and_back_all_but_the_mask_is_the_original(
    nodes, there_and_back, size, place
):
    original = pictures(size)
    edited, _ = there_and_back(original, place=place)
    assert edited.shape == original.shape
    assert float((edited - original).abs().mean()) < 0.05  # it lies where the original does
    image, soft = composite(nodes, original, edited, box(size), grow=3, feather=5)
    outside = soft == 0
    far = torch.ones(1, *size, dtype=torch.bool)
    far[reach(8)] = False
    assert bool(outside[far].all())
    assert torch.equal(bits(image[outside]), bits(original[outside]))
    assert torch.equal(bits(image[soft == 1]), bits(edited[soft == 1]))
    # Without the composite there is hardly a pixel that is not changed.
    assert float((edited != original)[outside].float().mean()) > 0.9


def test_the_host_alone_would_cut_it_off(nodes, demo):
    original = pictures((117, 123))
    vae = demo[2]
    assert vae.decode(vae.encode(original)).shape[1:3] == (112, 120)


def test_a_picture_of_another_size_is_refused_with_what_to_do(nodes, demo, library):
    original = pictures((117, 123))
    vae = demo[2]
    short = vae.decode(vae.encode(original))
    wrong = (
        r"^Composite Original: edited has another size than original. Got 120x112; expected"
        r" 123x117. .*Pad To Grid"
    )
    with pytest.raises(library.InvalidInput, match=wrong):
        composite(nodes, original, short, box((117, 123)))


def test_an_edit_that_was_resized_is_not_cropped(nodes, there_and_back, library):
    original = pictures((117, 123))
    edited, padding = there_and_back(original)
    wrong = r"^Crop Padding: image does not have the size .*Got 123x117; expected 128x120"
    with pytest.raises(library.InvalidInput, match=wrong):
        nodes["NMGCropPadding"].execute(edited, padding)


def test_alpha_goes_through_padding_and_composite_untouched(nodes, there_and_back):
    size = (117, 123)
    original = pictures(size, channels=4)
    padded = first(nodes["NMGPadToGrid"].execute(original, 8))
    assert torch.equal(padded[:, : size[0], : size[1]], original)
    edited, _ = there_and_back(original)
    image, _ = composite(nodes, original, edited, torch.ones(1, 1, 1))
    assert torch.equal(bits(image[..., 3]), bits(original[..., 3]))
    assert torch.equal(image[..., :3], edited)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_pad_to_grid_takes_is_composited(nodes, there_and_back, channels):
    size = (117, 123)
    original = pictures(size, channels=max(channels, 3))[..., -channels:]
    padded, _, padding = nodes["NMGPadToGrid"].execute(original, 8).result
    assert torch.equal(padded[:, : size[0], : size[1]], original)
    edited, _ = there_and_back(pictures(size))
    image, soft = composite(nodes, original, edited, box(size))
    coloured = channels + 2 if channels < 3 else channels
    assert image.shape == (1, *size, coloured)
    outside = image[soft == 0]
    grey = original[soft == 0][:, :1].expand(-1, 3)
    colours = grey if channels < 3 else original[soft == 0][:, :3]
    assert torch.equal(outside[:, :3], colours)
    assert torch.equal(image[soft == 1][:, :3], edited[soft == 1])


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 5), (1, 8, 8)], ids=str)
def test_what_is_no_picture_is_refused_by_both(nodes, library, shape):
    for node, name, given in (
        ("NMGPadToGrid", "Pad To Grid: image", {"image": torch.zeros(shape), "multiple": 8}),
        (
            "NMGCompositeOriginal",
            "Composite Original: original",
            {
                "original": torch.zeros(shape),
                "edited": torch.zeros(1, 8, 8, 3),
                "mask": torch.ones(1, 8, 8),
                "grow": 0,
                "feather": 0,
            },
        ),
    ):
        with pytest.raises(library.InvalidInput, match=f"^{name} is no picture"):
            nodes[node].execute(**given)


def test_a_batch_under_two_prompts_keeps_its_order(nodes, there_and_back):
    """As VAE Decode gives it: all pictures under one prompt, then all under the next."""
    size = (117, 123)
    original = pictures(size, count=2)
    edited, _ = there_and_back(original, edits=2)
    edited = edited * torch.tensor([1.0, 1.0, 0.5, 0.5]).reshape(-1, 1, 1, 1)
    masks = box(size, count=2)
    masks[1] = masks[1].flip(0)
    image, soft = composite(nodes, original, edited, masks, feather=4)
    assert image.shape == edited.shape
    assert soft.shape == (4, *size)
    for row in range(4):
        one = slice(row, row + 1)
        of = slice(row % 2, row % 2 + 1)
        alone, mask = composite(nodes, original[of], edited[one], masks[of], feather=4)
        assert torch.equal(image[one], alone)
        assert torch.equal(soft[one], mask)
        assert torch.equal(bits(alone[mask == 0]), bits(original[of][mask == 0]))


@pytest.mark.parametrize("given", [(1, 1), (16, 16), (400, 333)], ids=str)
def test_an_empty_mask_is_the_original_and_a_full_one_the_edit_at_any_size(
    nodes, there_and_back, given
):
    original = pictures((117, 123))
    edited, _ = there_and_back(original)
    for value, expected in ((0.0, original), (1.0, edited)):
        options = {"grow": 4, "feather": 8}
        image, soft = composite(nodes, original, edited, torch.full((1, *given), value), **options)
        assert torch.equal(bits(image), bits(expected))
        assert soft.unique().tolist() == [value]


def test_masks_of_the_padded_picture_are_cropped_with_it(nodes):
    size = (117, 123)
    masks = random_tensor((2, *size), 3).clamp(0, 1)
    run = (
        nodes["NMGPadToGrid"]
        .execute(pictures(size, 2), multiple=8, mask=masks, place="all around")
        .result
    )
    padded, padded_masks, padding = run
    assert padded_masks.shape == padded.shape[:3] == (2, 120, 128)
    image, back = nodes["NMGCropPadding"].execute(padded, padding, padded_masks).result
    assert torch.equal(back, masks)
    assert torch.equal(image, pictures(size, 2))
    # In cells of the latent, as the nodes that find masks see it.
    cells = torch.zeros(1, 15, 16)
    cells[:, 5:9, 4:8] = 1
    cropped = nodes["NMGCropPadding"].execute(padded, padding, cells).result[1]
    assert cropped.shape == (1, *size)
    assert bool(cropped[0, 5 * 8 + 8, 4 * 8 + 8] == 1)
    assert not cropped[0, :30].any()


def test_without_a_mask_padding_and_cropping_give_white(nodes):
    padded, mask, padding = nodes["NMGPadToGrid"].execute(pictures((117, 123)), 8).result
    assert torch.equal(mask, torch.ones(1, 120, 128))
    assert torch.equal(
        nodes["NMGCropPadding"].execute(padded, padding).result[1], torch.ones(1, 117, 123)
    )


def test_a_picture_that_fits_is_passed_on_as_it_is(nodes):
    original = pictures((128, 128))
    padded, _, padding = nodes["NMGPadToGrid"].execute(original, 8).result
    assert padded is original
    assert first(nodes["NMGCropPadding"].execute(original, padding)) is original


def test_words_narrow_or_widen_the_mask(nodes):
    size = (128, 128)
    original, edited = pictures(size), 1 - pictures(size)
    words = torch.zeros(1, 16, 16)
    words[:, :, 8:] = 1
    narrow, _ = composite(nodes, original, edited, box(size), words=words)
    wide, soft = composite(nodes, original, edited, box(size), words=words, combine="union")
    assert torch.equal(narrow[:, :, :60], original[:, :, :60])
    assert torch.equal(narrow[:, 30:61, 70:90], edited[:, 30:61, 70:90])
    assert torch.equal(narrow[:, :30], original[:, :30])
    assert torch.equal(wide[:, :, 70:], edited[:, :, 70:])
    assert torch.equal(wide[soft == 0], original[soft == 0])
    assert torch.equal(wide[BOX], edited[BOX])


def test_masks_that_do_not_fit_in_number_are_refused(nodes, library):
    size = (128, 128)
    original = pictures(size, 2)
    with pytest.raises(library.InvalidInput, match=r"^Composite Original: mask does not fit"):
        composite(nodes, original, original, box(size, 3))


def test_nothing_that_was_given_is_written_to(nodes):
    size = (117, 123)
    original, edited, mask = pictures(size), 1 - pictures(size), box(size)
    kept = [each.clone() for each in (original, edited, mask)]
    image, soft = composite(nodes, original, edited, mask, grow=0, feather=0)
    image.fill_(0.5)
    padded, padded_mask, padding = (
        nodes["NMGPadToGrid"].execute(original, multiple=8, mask=mask).result
    )
    padded.fill_(0.5)
    cropped, _ = nodes["NMGCropPadding"].execute(padded, padding, padded_mask).result
    cropped.fill_(0.25)
    for before, after in zip(kept, (original, edited, mask), strict=True):
        assert torch.equal(before, after)
    assert soft.shape == (1, *size)
