"""Nodes: pictures whose sides do not fit the latent grid, padded and cropped back."""

import torch

from ...nmg_sampler.pixels import FILLS, check_picture, fit_mask, padding_to_grid
from ..host.api.advice import advise
from ..host.api.sockets import Padding, io
from ..host.api.speaking import speaking_as
from ..host.runs.advice import about_picture

PLACES = ("right and bottom", "all around")


class NMGPadToGrid(io.ComfyNode):
    """Nothing of the picture is cut off or squashed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGPadToGrid",
            display_name="Pad To Grid",
            category="NMG/image",
            description=(
                "Pads a picture of any size to multiples of 8 pixels, as the latent needs them."
                " VAE Encode alone cuts the rest off without a word. Crop Padding takes the"
                " padding off the edit again."
            ),
            search_aliases=[
                "pad image",
                "any resolution",
                "multiple of 8",
                "divisible by 64",
                "odd size",
                "VAE crop",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The picture, or pictures of one size; alpha is kept."
                ),
                io.Int.Input(
                    "multiple",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Both sides become multiples of it, 1 to 256 pixels. 8 fits SD 1.x, SD"
                    " 2.x and SDXL; 64 some other models and ControlNets. A size that fits is"
                    " passed on as it is.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask of the picture, padded along with it. Any size.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default=PLACES[0],
                    optional=True,
                    advanced=True,
                    tooltip="Where the padding goes. 'all around': half of it on each side.",
                ),
                io.Combo.Input(
                    "fill",
                    options=list(FILLS),
                    default=FILLS[0],
                    optional=True,
                    advanced=True,
                    tooltip="What it is filled with. 'reflect': the picture mirrored at its"
                    " border; 'edge': its last pixels repeated.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The padded picture, for VAE Encode."),
                io.Mask.Output(
                    "mask",
                    tooltip="The padded mask, in the size of the padded picture. White everywhere"
                    " if none is connected.",
                ),
                Padding.Output("padding", tooltip="What was added, for Crop Padding."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image, multiple, mask=None, place=PLACES[0], fill=FILLS[0]) -> io.NodeOutput:
        with speaking_as("Pad To Grid"):
            check_picture("image", image)
            size = tuple(image.shape[1:3])
            padding = padding_to_grid(*size, multiple, centred=place == PLACES[1])
            fitted = torch.ones(1, *size) if mask is None else fit_mask("mask", mask, size)
        lines = [] if mask is None else about_picture(image, fitted, "image")
        ui = advise(cls, "Pad To Grid", lines) or None
        return io.NodeOutput(padding.pad(image, fill), padding.pad(fitted, fill), padding, ui=ui)


class NMGCropPadding(io.ComfyNode):
    """Back to the size the picture came in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGCropPadding",
            display_name="Crop Padding",
            category="NMG/image",
            description=(
                "Takes the padding of Pad To Grid off an edit, and off a mask of it, so that they"
                " lie on the original pixel by pixel."
            ),
            search_aliases=["unpad", "remove padding", "crop back", "original size"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The edit from VAE Decode, in the size that was padded to."
                ),
                Padding.Input("padding", tooltip="From the Pad To Grid before VAE Encode."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask of the padded picture, as NMG Edit Region makes it. Any size.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The edit in the size of the original."),
                io.Mask.Output(
                    "mask",
                    tooltip="The mask in the size of the original. White everywhere if none is"
                    " connected.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image, padding, mask=None) -> io.NodeOutput:
        with speaking_as("Crop Padding"):
            cropped = padding.crop("image", image)
            size = padding.padded
            fitted = torch.ones(1, *size) if mask is None else fit_mask("mask", mask, size)
            return io.NodeOutput(cropped, padding.crop("mask", fitted))
