"""Node: an unconditional embedding per step, fitted to the picture."""

from ...nmg_sampler.methods import NullTextSettings
from ..host.api.sockets import Guidance, Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.runs import run_null_text


class NMGNullText(io.ComfyNode):
    """Optimise once, edit as often as you like."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGNullText",
            display_name="Null-Text Inversion",
            category="NMG/guidance",
            description=(
                "For the guidance input of NMG Sample (Null-Text Inversion, arXiv 2211.09794):"
                " optimises the unconditional prompt of each step until text guidance reconstructs"
                " the picture. Takes a backward pass per update: up to inner_steps for each step."
            ),
            search_aliases=[
                "null text inversion",
                "NTI",
                "null-text optimization",
                "pivotal inversion",
                "unconditional embedding",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model the picture was inverted with and is edited with."
                ),
                Trajectory.Input(
                    "trajectory",
                    tooltip="From NMG Invert, or one that was saved behind this node: then what it"
                    " found for the same settings is taken from there.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The unconditional prompt to start from, the same as on NMG Sample: an"
                    " empty CLIP Text Encode.",
                ),
                io.Float.Input(
                    "text_scale",
                    default=NullTextSettings.text_scale,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The text_scale of NMG Sample, which must be the same, 0 to 100. At 1"
                    " there is nothing to optimise.",
                ),
                io.Int.Input(
                    "inner_steps",
                    default=NullTextSettings.inner_steps,
                    min=0,
                    max=100,
                    tooltip="The most updates per step, 0 to 100; a step ends earlier where it is"
                    " good enough. 0: plain text guidance; 10: the paper.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=NullTextSettings.learning_rate,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=0.00001,
                    tooltip="How far an update goes, 0 to 1, falling by 1 % per step. 0.01: the"
                    " paper. Lower it where the error grows, raise it where it hardly falls.",
                ),
                io.Float.Input(
                    "early_stop",
                    default=NullTextSettings.early_stop,
                    min=0.0,
                    max=1.0,
                    step=0.000001,
                    round=0.0000001,
                    optional=True,
                    advanced=True,
                    tooltip="Mean squared error that is good enough in the first step, 0 to 1;"
                    " rises by 0.00002 per step. 0.00001: the paper.",
                ),
            ],
            outputs=[
                Guidance.Output(
                    "guidance", tooltip="What was found, for NMG Sample with the same text_scale."
                ),
                Trajectory.Output(
                    "trajectory",
                    tooltip="The same trajectory with what was found in it, for NMG Sample and for"
                    " Save NMG Trajectory.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        trajectory,
        negative,
        text_scale,
        inner_steps,
        learning_rate,
        early_stop=NullTextSettings.early_stop,
    ) -> io.NodeOutput:
        with speaking_as("Null-Text Inversion"):
            settings = NullTextSettings(text_scale, inner_steps, learning_rate, early_stop)
            guidance, trajectory, cost = run_null_text(model, trajectory, negative, settings)
        return io.NodeOutput(guidance, trajectory, ui={"nmg": [cost]})
