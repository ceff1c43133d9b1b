"""Node: the source branch on its trajectory, at no cost."""

from ...nmg_sampler.methods import DirectInversion
from ..host.api.sockets import Guidance, io
from ..host.api.speaking import speaking_as


class NMGDirectInversion(io.ComfyNode):
    """The source branch is the picture, exactly; the editor carries that to the edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGDirectInversion",
            display_name="Direct Inversion",
            category="NMG/guidance",
            description=(
                "A method for NMG Sample beside an editor (Direct Inversion, PnP Inversion, arXiv"
                " 2310.01506): after each step the source branch is put back on the trajectory, so"
                " that the editor takes from the picture itself at every text scale. No model call"
                " more than plain text guidance."
            ),
            search_aliases=["pnp inversion", "pnp", "direct inversion", "keep source", "rectify"],
            inputs=[
                io.Float.Input(
                    "strength",
                    default=DirectInversion.strength,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Share of the way back to the trajectory, 0 to 1. 1: all of it, the"
                    " paper; the source branch is the picture exactly. 0: plain text guidance.",
                ),
                io.Int.Input(
                    "every",
                    default=DirectInversion.every,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="It acts in every so many steps, 1 to 1000, counted from the first one."
                    " 1: in each step.",
                ),
            ],
            outputs=[Guidance.Output("guidance", tooltip="For the guidance input of NMG Sample.")],
        )

    @classmethod
    def execute(cls, strength, every=DirectInversion.every) -> io.NodeOutput:
        with speaking_as("Direct Inversion"):
            return io.NodeOutput(DirectInversion(strength, every))
