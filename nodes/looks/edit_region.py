"""Node: where an edit wants to happen, as a mask."""

from torch.nn.functional import interpolate

from ..host.api.sockets import Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.runs import run_edit_region

_PIXELS = 8  # per latent cell, of every family that is supported


class NMGEditRegion(io.ComfyNode):
    """A mask without painting, from what the two prompts disagree about."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGEditRegion",
            display_name="NMG Edit Region",
            category="NMG",
            description=(
                "Finds where a target prompt wants to change the picture, before anything is"
                " edited: where the model's predictions under the target and the source prompt"
                " differ most. A mask to look at, to paint on, or for the mask input of NMG Sample."
            ),
            search_aliases=[
                "preserve map",
                "automatic mask",
                "edit mask",
                "DiffEdit",
                "mask from prompt",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                Trajectory.Input("trajectory", tooltip="From NMG Invert or Load NMG Trajectory."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The target prompt, as NMG Sample gets it. Of several prompts (NMG"
                    " Prompts) the mask covers all edits.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Part of the largest difference, 0 to 1, at which the mask is cut into"
                    " black and white. Lower: a larger mask. 0: a soft mask, 1 where the prompts"
                    " differ most.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How far the mask is grown, 0 to 64 latent cells of 8 pixels. 0: as it"
                    " was found.",
                ),
                io.Int.Input(
                    "levels",
                    default=5,
                    min=1,
                    max=50,
                    optional=True,
                    advanced=True,
                    tooltip="How many recorded states are looked at and averaged, 1 to 50, spread"
                    " over the middle of the trajectory. Two model calls of one row each.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "mask",
                    tooltip="One per picture, white where it may change, in the size of the"
                    " picture that was encoded. Black if both prompts mean the same.",
                )
            ],
        )

    @classmethod
    def execute(cls, model, trajectory, positive, threshold, grow, levels=5) -> io.NodeOutput:
        with speaking_as("NMG Edit Region"):
            region, cost = run_edit_region(model, trajectory, positive, levels, threshold, grow)
        # Cells stay cells, so that NMG Sample reads them back as they are.
        mask = interpolate(region, scale_factor=_PIXELS, mode="nearest")[:, 0]
        return io.NodeOutput(mask, ui={"nmg": [cost]})
