"""Nodes: NMG Sample in the two halves that the host's SamplerCustomAdvanced takes."""

from ..host.api.advice import advise
from ..host.api.sockets import Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.runs import plan_sampling
from ..host.runs.advice import about_sampling
from ..host.runs.custom_sampling import TrajectoryGuider, TrajectorySampler
from ..host.runs.custom_sampling_checks import sigmas_of
from .inputs import choose_guidance
from .sample import NMGSample


class NMGGuider(io.ComfyNode):
    """What the steps follow: prompts, and the method that holds them to the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGGuider",
            display_name="NMG Guider",
            category="NMG/custom sampling",
            description=(
                "NMG Sample for SamplerCustomAdvanced, first half: the prompts, and the method"
                " that holds the picture. With NMG Sampler it is NMG Sample bit for bit. With euler"
                " or euler_ancestral, which take one step at a time, the predicted noise is held"
                " at each of NMG Sampler's sigmas."
            ),
            search_aliases=[
                "guider",
                "CFGGuider",
                "SamplerCustomAdvanced",
                "custom sampling",
                "noise map guidance",
                "keep background",
            ],
            inputs=NMGSample.define_schema().inputs,
            outputs=[
                io.Guider.Output(
                    "guider",
                    tooltip="For SamplerCustomAdvanced, together with the sigmas of NMG Sampler."
                    " With an editor the source branch runs, but only the edit comes out.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        trajectory,
        positive,
        negative,
        text_scale,
        noise_map_scale,
        gradient_scale,
        mode,
        guidance=None,
        editor=None,
        mask=None,
    ) -> io.NodeOutput:
        with speaking_as("NMG Guider"):
            guidance = choose_guidance(guidance, mode, noise_map_scale, gradient_scale)
            plan = plan_sampling(
                model, trajectory, positive, negative, guidance, text_scale, mask, editor
            )
        advice = advise(
            cls,
            "NMG Guider",
            about_sampling(trajectory, positive, negative, guidance, text_scale, mask, editor),
        )
        return io.NodeOutput(TrajectoryGuider(model, plan), ui=advice or None)


class NMGSampler(io.ComfyNode):
    """Where the steps go: along a trajectory, from its last noise map to the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGSampler",
            display_name="NMG Sampler",
            category="NMG/custom sampling",
            description=(
                "NMG Sample for SamplerCustomAdvanced, second half: walks a trajectory back to the"
                " picture, held as NMG Guider says. Its sigmas are the trajectory's own levels, for"
                " other samplers as well."
            ),
            search_aliases=[
                "sampler",
                "sigmas",
                "DDIM",
                "SamplerCustomAdvanced",
                "custom sampling",
                "resample",
            ],
            inputs=[
                Trajectory.Input(
                    "trajectory", tooltip="From NMG Invert; the same one as on NMG Guider."
                )
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler", tooltip="For SamplerCustomAdvanced, beside the guider of NMG Guider."
                ),
                io.Sigmas.Output(
                    "sigmas",
                    tooltip="The noise levels of the trajectory's steps, noisiest first, down to"
                    " that of the picture.",
                ),
            ],
        )

    @classmethod
    def execute(cls, trajectory) -> io.NodeOutput:
        return io.NodeOutput(TrajectorySampler(trajectory), sigmas_of(trajectory.schedule))
