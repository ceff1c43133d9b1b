"""Node: two pictures as the heat of their difference, and in numbers."""

from statistics import mean

import torch
from torch.nn.functional import interpolate

from ...nmg_sampler import InvalidInput
from ..drawing.quality import (
    BRIGHTEST,
    EQUAL_DB,
    comparable,
    difference,
    difference_heat,
    psnr,
    ssim,
)
from ..host.api.sockets import io
from ..host.api.speaking import speaking_as


def difference_outputs() -> list[io.Output]:
    """The difference of two pictures, the same sentences on every node."""
    return [
        io.Image.Output(
            "difference",
            tooltip="Where they differ, from dark (not at all) to bright (by"
            f" {BRIGHTEST:.0%} of a colour's range or more), alike in all pictures.",
        ),
        io.Float.Output(
            "psnr",
            tooltip="Peak signal to noise ratio in decibels: higher is closer; below 25 the eye"
            f" sees it, {EQUAL_DB:.0f} is equal. Of a batch the mean.",
        ),
        io.Float.Output(
            "ssim",
            tooltip="Structural similarity, -1 to 1: 1 is equal, 0 unrelated. Of a batch the mean.",
        ),
    ]


class NMGDifference(io.ComfyNode):
    """What changed, where, and how much."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGDifference",
            display_name="Image Difference",
            category="NMG/tools",
            description=(
                "Shows where two pictures differ, as heat, and measures how much: PSNR and SSIM,"
                " of the whole picture or of the part under a mask. To see whether an edit left"
                " the rest alone."
            ),
            search_aliases=[
                "compare images",
                "PSNR",
                "SSIM",
                "heat map",
                "image quality",
                "absolute difference",
                "before after",
            ],
            inputs=[
                io.Image.Input("image_a", tooltip="One picture, or a batch."),
                io.Image.Input(
                    "image_b",
                    tooltip="The other, of the same size. One picture is compared with each of a"
                    " batch.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to look (white); the rest is left out of numbers and heat. Any"
                    " size. With InvertMask: what an edit should have left alone.",
                ),
            ],
            outputs=difference_outputs(),
        )

    @classmethod
    def execute(cls, image_a, image_b, mask=None) -> io.NodeOutput:
        with speaking_as("Image Difference"):
            first, second = comparable(image_a, image_b, "image_b")
            where = None if mask is None else fit(mask, first.shape)
        values = difference(first, second)
        if where is not None:
            values = values * where
        numbers = [mean(measure(first, second, where)) for measure in (psnr, ssim)]
        return io.NodeOutput(difference_heat(values), *numbers)


def fit(mask: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A MASK of any size over pictures of `shape`, as (B or 1, H, W) booleans.

    Raises:
        InvalidInput: nothing of a picture is under it, or it is not of as many pictures.
    """
    planes = mask.float().cpu().reshape(-1, 1, *mask.shape[-2:])
    where = interpolate(planes, tuple(shape[1:3]), mode="bilinear")[:, 0] > 0.5
    if len(where) not in (1, shape[0]):
        raise InvalidInput.of(
            "mask",
            "does not fit the pictures",
            f"{len(where)} masks",
            f"1 or {shape[0]}",
            "Connect one mask, or one for each picture.",
        )
    if not bool(where.flatten(1).any(1).all()):
        raise InvalidInput.of(
            "mask",
            "covers nothing",
            "a mask without white",
            "at least one white pixel",
            "Paint where to look, or disconnect it.",
        )
    return where.expand(shape[0], -1, -1)
