"""Node: attention editing that changes pose and shape and keeps the texture."""

import torch

from ...nmg_sampler import Counting, MasaCtrl
from ...nmg_sampler.words import lines
from ..host.api.advice import advise
from ..host.api.sockets import Editor, io
from ..host.api.speaking import speaking_as
from ..host.models.dynamic_prompts import check_plain
from ..host.models.tokens import tokenize
from ..host.runs.advice import about_mask


class NMGMasaCtrl(io.ComfyNode):
    """The same thing in another pose."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGMasaCtrl",
            display_name="MasaCtrl",
            category="NMG/editor",
            description=(
                "An editor for NMG Sample (MasaCtrl, arXiv 2304.08465): the target prompt decides"
                " on pose and shape, and everything is painted with what the source shows. For"
                " what Prompt-to-Prompt cannot do: sitting instead of standing, another view."
            ),
            search_aliases=[
                "mutual self-attention",
                "non-rigid edit",
                "change pose",
                "change action",
                "consistent character",
                "attention editor",
            ],
            inputs=[
                io.Int.Input(
                    "start_step",
                    default=MasaCtrl.start_step,
                    min=0,
                    max=1000,
                    tooltip="First step that it acts in, 0 to 1000, counted from the noisiest."
                    " Later: a freer pose, less like the source. From the run's number of steps"
                    " on: no change. 4 of 50 is the paper's.",
                ),
                io.Int.Input(
                    "start_layer",
                    default=MasaCtrl.start_layer,
                    min=0,
                    max=100,
                    tooltip="First transformer block that it acts in, 0 to 100, counted as in SD"
                    " 1.x, which has 16. 10, the paper's: the two finest resolutions on the way"
                    " up. Lower: shapes of the source return. 16 and more: no change.",
                ),
                io.Mask.Input(
                    "source_mask",
                    optional=True,
                    tooltip="Where the object is in the source (white). Object is then painted"
                    " with object, background with background. Any size; alone it holds for the"
                    " target as well.",
                ),
                io.Mask.Input(
                    "target_mask",
                    optional=True,
                    tooltip="Where the object is to be in the edit (white); grey mixes. Any size;"
                    " alone it holds for the source as well.",
                ),
                io.Combo.Input(
                    "counting",
                    options=[choice.value for choice in Counting],
                    default=Counting.SD1.value,
                    optional=True,
                    advanced=True,
                    tooltip="What start_layer counts. 'SD 1.x': its blocks; in another model the"
                    " blocks of the same resolution. 'model': this model's own blocks, of which"
                    " SDXL has 70.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Only for mask_words: the CLIP the prompts are encoded with.",
                ),
                io.String.Input(
                    "source_prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Only for mask_words: the text of NMG Invert's prompt, word for word.",
                ),
                io.String.Input(
                    "target_prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Only for mask_words: the text of NMG Sample's positive, word for word."
                    " Several lines are as many edits at once: encode them with NMG Prompts.",
                ),
                io.String.Input(
                    "mask_words",
                    default="",
                    optional=True,
                    tooltip="Finds a mask that is not connected: where the model sees these words,"
                    " as in 'kitten', or 'cat, tiger' (source word, target word); more pairs after"
                    " ';'. Empty: no mask is looked for.",
                ),
                io.Float.Input(
                    "mask_threshold",
                    default=MasaCtrl.mask_threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="How strongly mask_words must be seen, 0 to 1 between the least and the"
                    " most. Lower: a larger object; 0: all of the picture.",
                ),
            ],
            outputs=[Editor.Output("editor", tooltip="For the editor input of NMG Sample.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        start_step,
        start_layer,
        source_mask=None,
        target_mask=None,
        counting=Counting.SD1.value,
        clip=None,
        source_prompt="",
        target_prompt="",
        mask_words="",
        mask_threshold=MasaCtrl.mask_threshold,
    ) -> io.NodeOutput:
        with speaking_as("MasaCtrl"):
            editor = MasaCtrl(
                start_step,
                start_layer,
                Counting(counting),
                _region(source_mask),
                _region(target_mask),
                mask_threshold=mask_threshold,
                mask_words=mask_words,
            )
            looked_for = mask_words.strip() and (source_mask is None or target_mask is None)
            # Without texts the words are those of the connected prompts.
            if looked_for and (source_prompt.strip() or target_prompt.strip()):
                check_plain(source_prompt, "source_prompt")
                check_plain(target_prompt, "target_prompt")
                source = tokenize(clip, source_prompt)
                editor = editor.with_words(
                    source, [tokenize(clip, line) for line in lines(target_prompt)]
                )
        masks = {"source_mask": source_mask, "target_mask": target_mask}
        found = [
            line
            for name, mask in masks.items()
            for line in about_mask(mask, name, "it parts nothing")
        ]
        return io.NodeOutput(editor, ui=advise(cls, "MasaCtrl", found) or None)


def _region(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A MASK as (B, 1, h, w) 0..1."""
    # (B, H, W) or (H, W) -> (B, 1, H, W); resizing may have left it a little out of range.
    return None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)
