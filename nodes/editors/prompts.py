"""Node: several prompts for as many edits at once."""

from ...nmg_sampler.words import lines
from ..host.api.sockets import io
from ..host.api.speaking import speaking_as
from ..host.models.dynamic_prompts import check_resolved
from ..host.models.words import encode_prompts


class NMGPrompts(io.ComfyNode):
    """One line, one edit; they share the inversion and the source branch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGPrompts",
            display_name="NMG Prompts",
            category="NMG",
            description=(
                "Encodes several target prompts, one per line, for NMG Sample: as many edits of the"
                " picture at once. With an editor they share one source branch, so that a further"
                " edit costs its own rows only. The prompts keep their words for the editors."
            ),
            search_aliases=[
                "prompt list",
                "prompt batch",
                "several edits",
                "CLIP Text Encode batch",
            ],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The target prompts, one per line. Empty lines do not count. Choices in"
                    " braces and // comments are resolved as in CLIP Text Encode.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "prompts", tooltip="For the positive input of NMG Sample: one row per line."
                )
            ],
        )

    @classmethod
    def execute(cls, clip, text) -> io.NodeOutput:
        with speaking_as("NMG Prompts"):
            check_resolved(text, "text")
            return io.NodeOutput(encode_prompts(clip, lines(text)))
