"""Node: the choices of Noise Map Guidance."""

from ...nmg_sampler import Gradient, Loss, Mode, NoiseMapGuidance, Reference
from ..host.api.sockets import Guidance, io
from ..host.api.speaking import speaking_as
from ..path.inputs import gradient_scale_input, mode_input, noise_map_scale_input

REFERENCES = {"auto": None, **{reference.value: reference for reference in Reference}}


class NMGGuidance(io.ComfyNode):
    """Noise Map Guidance with every choice in the open."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGGuidance",
            display_name="NMG Guidance",
            category="NMG/guidance",
            description=(
                "Noise Map Guidance with all of its choices, for the guidance input of NMG Sample."
                " Without this node NMG Sample uses its own widgets and the defaults."
            ),
            search_aliases=["noise map guidance", "preserve background", "energy guidance"],
            inputs=[
                mode_input(Mode.FUSED),
                io.Combo.Input(
                    "gradient",
                    options=[gradient.value for gradient in Gradient],
                    default=Gradient.DIRECT.value,
                    tooltip="'direct': the network's Jacobian is left out, no backward pass, no"
                    " extra memory. 'full': through the network, as the paper; needs several times"
                    " the memory.",
                ),
                io.Combo.Input(
                    "loss",
                    options=[loss.value for loss in Loss],
                    default=Loss.L1.value,
                    tooltip="Distance to the noise map. 'l1': the paper's, a push of constant"
                    " strength. 'l2': a push that grows with the distance; wants its own scale."
                    " 'smooth_l1': l1 without the jump at zero.",
                ),
                io.Combo.Input(
                    "reference",
                    options=list(REFERENCES),
                    default="auto",
                    advanced=True,
                    tooltip="Which noise map a step is compared with. 'current': the level it"
                    " starts from (the published code); 'reached': the level it goes to (the"
                    " paper's equation). 'auto': current for official, reached for fused.",
                ),
                noise_map_scale_input(),
                gradient_scale_input(),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Where in the run the guidance begins, 0 to 1 of the steps. 0: from"
                    " the noisiest step on.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Where in the run the guidance ends, 0 to 1 of the steps. 1: it acts"
                    " to the last step.",
                ),
                io.Float.Input(
                    "inside",
                    default=NoiseMapGuidance.inside,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="With a mask on NMG Sample: factor of the scale where the picture may"
                    " change, 0 to 100. 0: no hold there at all.",
                ),
                io.Float.Input(
                    "outside",
                    default=NoiseMapGuidance.outside,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="With a mask on NMG Sample: factor of the scale where the picture"
                    " should stay, 0 to 100.",
                ),
                io.Int.Input(
                    "every",
                    default=NoiseMapGuidance.every,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="The guidance acts in every so many steps, 1 to 1000, counted from the"
                    " first one. 1: in each step.",
                ),
                io.Float.Input(
                    "falloff",
                    default=NoiseMapGuidance.falloff,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="How much of the scale is gone at the end of the run, 0 to 1, evenly"
                    " over the steps. 0: the scale is constant; 1: it falls to nothing.",
                ),
                io.Float.Input(
                    "blend",
                    default=NoiseMapGuidance.blend,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="With a mask on NMG Sample: how far the picture is put back where it"
                    " should stay after every step, 0 to 1. 0: it is only held; 1: there the"
                    " latent is the picture's own.",
                ),
            ],
            outputs=[
                Guidance.Output("guidance", tooltip="The method with its settings, for NMG Sample.")
            ],
        )

    @classmethod
    def execute(
        cls,
        mode,
        gradient,
        loss,
        reference,
        noise_map_scale,
        gradient_scale,
        start,
        end,
        inside=NoiseMapGuidance.inside,
        outside=NoiseMapGuidance.outside,
        every=NoiseMapGuidance.every,
        falloff=NoiseMapGuidance.falloff,
        blend=NoiseMapGuidance.blend,
    ) -> io.NodeOutput:
        mode = Mode(mode)
        auto = Reference.CURRENT if mode is Mode.OFFICIAL else Reference.REACHED
        with speaking_as("NMG Guidance"):
            return io.NodeOutput(
                NoiseMapGuidance(
                    noise_map_scale,
                    gradient_scale,
                    mode,
                    Gradient(gradient),
                    Loss(loss),
                    REFERENCES[reference] or auto,
                    start,
                    end,
                    inside,
                    outside,
                    every,
                    falloff,
                    blend,
                )
            )
