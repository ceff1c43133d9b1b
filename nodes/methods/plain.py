"""Node: text guidance alone."""

from ...nmg_sampler import PlainGuidance
from ..host.api.sockets import Guidance, io


class NMGPlainGuidance(io.ComfyNode):
    """The baseline of every paper."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGPlainGuidance",
            display_name="DDIM + CFG",
            category="NMG/guidance",
            description=(
                "For the guidance input of NMG Sample: plain DDIM sampling with text guidance and"
                " nothing that holds it to the picture. What the other methods are compared with."
            ),
            search_aliases=["plain", "baseline", "DDIM inversion", "no guidance", "CFG"],
            inputs=[],
            outputs=[Guidance.Output("guidance", tooltip="No correction at all, for NMG Sample.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(PlainGuidance())
