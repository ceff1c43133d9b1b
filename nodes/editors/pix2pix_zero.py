"""Node: the source's cross-attention as a guide, by gradient."""

from ...nmg_sampler import Halves, Pix2PixZero
from ..host.api.sockets import Editor, io
from ..host.api.speaking import speaking_as


class NMGPix2PixZero(io.ComfyNode):
    """The edit is a direction in the prompt's embedding; the layout follows the source."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGPix2PixZero",
            display_name="pix2pix-zero",
            category="NMG/editor",
            description=(
                "An editor for NMG Sample (pix2pix-zero, arXiv 2302.03027): before every step the"
                " edit is moved so that its cross-attention stays that of the source. Connect the"
                " SOURCE prompt through NMG Apply Direction to NMG Sample's positive. Takes a"
                " backward pass: about three times the time, and several times the memory."
            ),
            search_aliases=[
                "pix2pixzero",
                "edit direction",
                "cross attention guidance",
                "attention control",
                "zero-shot image translation",
            ],
            inputs=[
                io.Float.Input(
                    "attention_scale",
                    default=Pix2PixZero.attention_scale,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How strongly the layout is held to the source's, 0 to 10: length of"
                    " the step down the gradient (lambda_xa of the paper). 0: not at all, and at no"
                    " cost; 0.1: the paper, change it by 0.05; higher: more faithful, until it"
                    " overshoots.",
                ),
                io.Combo.Input(
                    "halves",
                    options=[halves.value for halves in Halves],
                    default=Pix2PixZero.halves.value,
                    optional=True,
                    advanced=True,
                    tooltip="What the attention under the prompt and under the negative prompt"
                    " moves. 'together': both the one state. 'separate': each its own copy, of"
                    " which the unconditional one goes on, as the published code does.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run it begins, 0 to 1 of the steps. 0: from the noisiest"
                    " step on.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run it ends, 0 to 1 of the steps. 1: it acts to the last"
                    " step. Layout is settled early: 0.5 halves the cost.",
                ),
            ],
            outputs=[Editor.Output("editor", tooltip="For the editor input of NMG Sample.")],
        )

    @classmethod
    def execute(
        cls,
        attention_scale,
        halves=Pix2PixZero.halves.value,
        start=0.0,
        end=1.0,
    ) -> io.NodeOutput:
        with speaking_as("pix2pix-zero"):
            return io.NodeOutput(Pix2PixZero(attention_scale, Halves(halves), start, end))
