"""Nodes: an edit as a direction in the prompt's embedding."""

from typing import Any

from ...nmg_sampler import EditDirection, mean_difference
from ...nmg_sampler.words import sentences
from ..host.api.sockets import Direction, io
from ..host.api.speaking import speaking_as
from ..host.models.dynamic_prompts import check_resolved
from ..host.models.sentences import encode_sentences
from ..host.runs import check_conditioning


class NMGEditDirection(io.ComfyNode):
    """From cat to dog, whatever else the sentences say."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGEditDirection",
            display_name="NMG Edit Direction",
            category="NMG/direction",
            description=(
                "Makes an edit direction (pix2pix-zero, arXiv 2302.03027): the mean embedding of"
                " sentences about what you want minus that of sentences about what there is. For"
                " NMG Apply Direction."
            ),
            search_aliases=[
                "pix2pix-zero",
                "edit direction",
                "embedding difference",
                "sentence bank",
                "concept vector",
            ],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model that is edited with."),
                io.String.Input(
                    "source_sentences",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="Sentences about what there is, one per line: 'a cat sits on a chair'."
                    " The more different they are the better; some ten do, the paper has 1000.",
                ),
                io.String.Input(
                    "target_sentences",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="Sentences about what you want, one per line: 'a dog sits on a chair'."
                    " They need not be as many as the source's, nor in pairs.",
                ),
            ],
            outputs=[
                Direction.Output(
                    "direction", tooltip="For NMG Apply Direction or Save NMG Direction."
                )
            ],
        )

    @classmethod
    def execute(cls, clip, source_sentences, target_sentences) -> io.NodeOutput:
        with speaking_as("NMG Edit Direction"):
            check_resolved(source_sentences, "source_sentences")
            check_resolved(target_sentences, "target_sentences")
            texts = (
                sentences(source_sentences, "source_sentences"),
                sentences(target_sentences, "target_sentences"),
            )
            source, target = encode_sentences(clip, *texts)
            direction = mean_difference(source, target, *map("\n".join, texts))
        return io.NodeOutput(direction)


class NMGApplyDirection(io.ComfyNode):
    """The prompt with the edit in it, without a word changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGApplyDirection",
            display_name="NMG Apply Direction",
            category="NMG/direction",
            description=(
                "Shifts a prompt along an edit direction. Apply it to the source prompt and connect"
                " the result to NMG Sample's positive: the edit without writing a new prompt."
            ),
            search_aliases=["pix2pix-zero", "edit direction", "shift prompt", "add conditioning"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The source prompt, as NMG Invert gets it. All its parts are shifted.",
                ),
                Direction.Input("direction", tooltip="From NMG Edit Direction."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How far along the direction, -10 to 10, dimensionless. 0: not at all;"
                    " 1: as the paper; more: a clearer edit, until the picture breaks; negative:"
                    " the other way, from what is wanted to what there was.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", tooltip="The target prompt, for NMG Sample's positive."
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning, direction, strength) -> io.NodeOutput:
        with speaking_as("NMG Apply Direction"):
            check_conditioning(conditioning, "conditioning")
            return io.NodeOutput([_shifted(part, direction, strength) for part in conditioning])


def _shifted(part: Any, direction: EditDirection, strength: float) -> list[Any]:
    """A new entry of a CONDITIONING; all but the embeddings is as it was."""
    embedding, options = part
    moved, pooled = direction.shift(embedding, options.get("pooled_output"), strength)
    if pooled is not None:
        options = {**options, "pooled_output": pooled}
    return [moved, dict(options)]
