"""Node: only what the prompt really changes is changed."""

from ...nmg_sampler.methods import ProximalGuidance, Threshold
from ..host.api.sockets import Guidance, io
from ..host.api.speaking import speaking_as


class NMGProximal(io.ComfyNode):
    """Negative-Prompt Inversion with the small part of the edit taken out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGProximal",
            display_name="Proximal Guidance",
            category="NMG/guidance",
            description=(
                "A method for NMG Sample (proximal guidance, ProxNPI, arXiv 2306.05414): the source"
                " prompt takes the negative prompt's place, the weak part of what the target prompt"
                " changes is left out, and where nothing changes the late steps are drawn to the"
                " picture. Alone or with an editor; no further model calls."
            ),
            search_aliases=[
                "proxnpi",
                "prox edit",
                "proximal negative prompt inversion",
                "inversion guidance",
                "sparse edit",
            ],
            inputs=[
                io.Combo.Input(
                    "threshold",
                    options=[threshold.value for threshold in Threshold],
                    default=ProximalGuidance.threshold.value,
                    tooltip="What becomes of the strong part of the edit. 'soft': weaker by the"
                    " threshold, as the published code does. 'hard': as it is; changes more.",
                ),
                io.Float.Input(
                    "quantile",
                    default=ProximalGuidance.quantile,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="The preserve <-> change knob, 0 to 1: how much of the latent is left"
                    " out of the edit. 0: nothing, 1: everything, the picture comes back. The"
                    " published numbers count the source in: their 0.7 is 0.4 here.",
                ),
                io.Float.Input(
                    "value",
                    default=ProximalGuidance.value,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=0.0001,
                    optional=True,
                    advanced=True,
                    tooltip="The least threshold, 0 to 100, in units of predicted noise. With"
                    " quantile 0 it is the threshold.",
                ),
                io.Float.Input(
                    "recon_strength",
                    default=ProximalGuidance.recon_strength,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Share of the way to the picture that each late step is drawn where"
                    " nothing is edited, 0 to 1. 0: not at all; 1: there it is the picture.",
                ),
                io.Float.Input(
                    "recon_start",
                    default=ProximalGuidance.recon_start,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run that begins, 0 to 1 of the steps. 0: from the"
                    " noisiest step on; 1: never.",
                ),
                io.Int.Input(
                    "dilate",
                    default=ProximalGuidance.dilate,
                    min=0,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="How far around the edit the picture does not draw, 0 to 64 cells of"
                    " the latent (8 pixels each).",
                ),
                io.Float.Input(
                    "interpolation",
                    default=ProximalGuidance.interpolation,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="How far the unconditional prompt is moved from the source prompt to"
                    " NMG Sample's negative, 0 to 1. 0: not at all, the paper.",
                ),
            ],
            outputs=[Guidance.Output("guidance", tooltip="For the guidance input of NMG Sample.")],
        )

    @classmethod
    def execute(
        cls,
        threshold,
        quantile,
        value=ProximalGuidance.value,
        recon_strength=ProximalGuidance.recon_strength,
        recon_start=ProximalGuidance.recon_start,
        dilate=ProximalGuidance.dilate,
        interpolation=ProximalGuidance.interpolation,
    ) -> io.NodeOutput:
        with speaking_as("Proximal Guidance"):
            return io.NodeOutput(
                ProximalGuidance(
                    Threshold(threshold),
                    quantile,
                    value,
                    recon_strength,
                    recon_start,
                    dilate,
                    interpolation,
                )
            )
