"""Node: the source prompt in the negative prompt's place."""

from ...nmg_sampler.methods import NegativePromptGuidance
from ..host.api.sockets import Guidance, io
from ..host.api.speaking import speaking_as


class NMGNegativePrompt(io.ComfyNode):
    """Reconstructs at any text scale, and costs nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGNegativePrompt",
            display_name="Negative-Prompt Inversion",
            category="NMG/guidance",
            description=(
                "For the guidance input of NMG Sample (Negative-Prompt Inversion, arXiv"
                " 2305.16807): the trajectory's source prompt takes the place of the negative"
                " prompt, so that text guidance pushes from the source to the target alone and"
                " nothing else. Costs nothing."
            ),
            search_aliases=[
                "negative prompt inversion",
                "NPI",
                "null-text inversion",
                "fast inversion",
                "source as negative",
            ],
            inputs=[
                io.Float.Input(
                    "interpolation",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the unconditional prompt is moved from the source prompt to"
                    " the negative prompt of NMG Sample, 0 to 1. 0: the source prompt, as in the"
                    " paper, the most faithful; 1: the negative prompt, plain text guidance.",
                ),
            ],
            outputs=[
                Guidance.Output("guidance", tooltip="The method with its setting, for NMG Sample.")
            ],
        )

    @classmethod
    def execute(cls, interpolation) -> io.NodeOutput:
        with speaking_as("Negative-Prompt Inversion"):
            return io.NodeOutput(NegativePromptGuidance(interpolation))
