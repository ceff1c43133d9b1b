"""Node: the original picture outside a mask, bit for bit."""

import torch

from ...nmg_sampler.pixels import Combine, branches_of, composite, fit_mask, soft_mask
from ..host.api.advice import advise
from ..host.api.sockets import io
from ..host.api.speaking import speaking_as
from ..host.runs.advice import about_mask, about_picture

_GROW_PX, _FEATHER_PX = 256, 256


class NMGCompositeOriginal(io.ComfyNode):
    """What lies outside the mask is not nearly the picture, it is the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGCompositeOriginal",
            display_name="Composite Original",
            category="NMG/image",
            description=(
                "Puts the edit into the original picture inside a mask. Outside the mask and its"
                " soft edge the result is the original bit for bit, untouched by the VAE."
            ),
            search_aliases=[
                "keep background",
                "exact background",
                "paste back",
                "blend by mask",
                "feather mask",
                "grow mask",
                "inpaint composite",
            ],
            inputs=[
                io.Image.Input(
                    "original",
                    tooltip="The picture before VAE Encode. An alpha channel is kept as it is.",
                ),
                io.Image.Input(
                    "edited",
                    tooltip="The edit from VAE Decode, in the size of the original. Of several"
                    " prompts all edits: originals and masks are repeated for each.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the result is the edit (white); grey mixes. Any size. One for"
                    " all, one per picture, or one per edit. Black: the original; white: the edit.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-_GROW_PX,
                    max=_GROW_PX,
                    tooltip="How far the mask is grown all around, -256 to 256 pixels. Below 0: it"
                    " is shrunk. 0: as it is.",
                ),
                io.Int.Input(
                    "feather",
                    default=8,
                    min=0,
                    max=_FEATHER_PX,
                    tooltip="Width of the soft edge, 0 to 256 pixels, outside the grown mask, which"
                    " itself stays whole. More than grow + feather pixels from the mask the"
                    " original is exact. 0: a hard edge. For an edge half inside, grow by minus"
                    " half of it.",
                ),
                io.Mask.Input(
                    "words",
                    optional=True,
                    tooltip="A second mask, as of NMG Attention Maps or NMG Edit Region. Any size.",
                ),
                io.Combo.Input(
                    "combine",
                    options=[choice.value for choice in Combine],
                    default=Combine.INTERSECTION.value,
                    optional=True,
                    tooltip="What mask and words are together, before the edge is made."
                    " 'intersection': white where both are; nothing changes outside either."
                    " 'union': white where one of them is. Without words it does nothing.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    tooltip="One picture per edit, with the channels of the original; grey"
                    " becomes red, green and blue.",
                ),
                io.Mask.Output(
                    "mask",
                    tooltip="The soft mask that was used, one per edit: where it is black the"
                    " original is exact.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        original,
        edited,
        mask,
        grow,
        feather,
        words=None,
        combine=Combine.INTERSECTION.value,
    ) -> io.NodeOutput:
        with speaking_as("Composite Original"):
            branches = branches_of(original, edited)
            soft = soft_mask(
                mask,
                original.shape[1:3],
                branches,
                words=words,
                combine=Combine(combine),
                grow=grow,
                feather=feather,
            )
            image = composite(original, edited, soft)
        each = soft if len(soft) == len(image) else soft.repeat(len(image), 1, 1)
        lines = _advice(original, mask, words)
        return io.NodeOutput(image, each, ui=advise(cls, "Composite Original", lines) or None)


def _advice(original: torch.Tensor, mask: torch.Tensor, words: torch.Tensor | None) -> list[str]:
    masks = {"mask": mask} if words is None else {"mask": mask, "words": words}
    lines = [
        line
        for name, each in masks.items()
        for line in about_mask(each, name, "it takes nothing of the edit")
    ]
    fitted = fit_mask("mask", mask, original.shape[1:3])
    return lines + about_picture(original, fitted, "original")
