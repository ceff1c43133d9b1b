"""Node: how well a picture comes back, and what to change if it does not."""

from collections.abc import Sequence
from statistics import mean

import torch

from ...nmg_sampler import Mode, PlainGuidance
from ..drawing.chart import Line, line_chart
from ..drawing.quality import comparable, difference, difference_heat, psnr, ssim
from ..drawing.verdict import Findings, verdict
from ..host.api.display import show_text
from ..host.api.sockets import Guidance, Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.models.decoding import as_encoded, decode, latent_of
from ..host.runs.reconstruction import (
    Reconstructed,
    Way,
    check_reconstruction,
    run_reconstruction,
    ways_back,
)
from ..path.inputs import (
    choose_guidance,
    gradient_scale_input,
    mode_input,
    noise_map_scale_input,
)
from .difference import difference_outputs


class NMGReconstructionCheck(io.ComfyNode):
    """Look at what an edit can keep before you edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGReconstructionCheck",
            display_name="NMG Reconstruction Check",
            category="NMG/tools",
            description=(
                "Samples a trajectory back under its own source prompt and tells how much of the"
                " picture survives, in pictures, numbers and words with the first setting to"
                " change. An edit keeps no more than this. Runs up to three times: as set, without"
                " guidance, and at text scale 1, to find what is at fault."
            ),
            search_aliases=[
                "reconstruct",
                "PSNR",
                "SSIM",
                "inversion quality",
                "test inversion",
                "difference heat map",
                "diagnose",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                Trajectory.Input(
                    "trajectory",
                    tooltip="From NMG Invert or Load NMG Trajectory; the source prompt comes with"
                    " it.",
                ),
                io.Conditioning.Input(
                    "negative", tooltip="The unconditional prompt, as on NMG Sample: empty."
                ),
                io.Vae.Input("vae", tooltip="The VAE that the picture was encoded with."),
                io.Float.Input(
                    "text_scale",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The text_scale you want to edit at, 0 to 100, dimensionless. 1: the"
                    " inversion alone; higher: harder to come back from.",
                ),
                noise_map_scale_input(),
                gradient_scale_input(),
                mode_input(Mode.FUSED),
                Guidance.Input(
                    "guidance",
                    optional=True,
                    tooltip="Another method, or NMG Guidance with all choices. The mode and the"
                    " two scales above are then not used.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The original picture, to compare with that. Without it the comparison"
                    " is with what the VAE makes of it, which is the most that sampling can reach.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The reconstruction, as the settings are."),
                *difference_outputs(),
                io.Image.Output(
                    "curve",
                    tooltip="How far each step is from the trajectory's state: as set, without"
                    " guidance, and at text scale 1.",
                ),
                io.String.Output(
                    "verdict",
                    tooltip="How good it is and what to change first, in words; also shown on the"
                    " node. Of a batch about the worst picture.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        trajectory,
        negative,
        vae,
        text_scale,
        noise_map_scale,
        gradient_scale,
        mode,
        guidance=None,
        image=None,
    ) -> io.NodeOutput:
        with speaking_as("NMG Reconstruction Check"):
            guidance = choose_guidance(guidance, mode, noise_map_scale, gradient_scale)
            ways = ways_back(trajectory, guidance, text_scale)
            check_reconstruction(model, trajectory, negative, ways)
            reference = decode(vae, latent_of(trajectory, trajectory.states[0]))
            original = reference
            if image is not None:
                _, original = comparable(reference, as_encoded(vae, image), "image")
            made, cost = run_reconstruction(model, trajectory, negative, ways)
            images = [decode(vae, way.samples) for way in made]
        words = _judge(ways, images, reference, original, len(trajectory.schedule.descent()))
        show_text(cls, words)
        result, true = comparable(images[0], original, "image")
        return io.NodeOutput(
            images[0],
            difference_heat(difference(result, true)),
            mean(psnr(result, true)),
            mean(ssim(result, true)),
            _curve(ways, made),
            words,
            ui={"text": (words,), "nmg": [cost]},
        )


def _judge(
    ways: Sequence[Way],
    images: Sequence[torch.Tensor],
    reference: torch.Tensor,
    original: torch.Tensor,
    steps: int,
) -> str:
    """The verdict on the picture that comes back worst.

    It is on the method alone: what counts is the distance to the VAE round trip.
    """
    each = [psnr(image, reference) for image in images]
    worst = each[0].index(min(each[0]))
    guidance, text_scale = ways[0]

    def of(way: Way) -> float | None:
        return each[ways.index(way)][worst] if way in ways else None

    against = []
    if original is not reference:
        against = [psnr(image, original)[worst] for image in (images[0], reference)]
    found = Findings(
        each[0][worst],
        of((PlainGuidance(), text_scale)),
        of((PlainGuidance(), 1.0)),
        guidance,
        text_scale,
        steps,
        *against,
    )
    of_batch = f"Picture {worst + 1} of {len(reference)} is the worst. "
    return (of_batch if len(reference) > 1 else "") + verdict(found)


def _curve(ways: Sequence[Way], made: Sequence[Reconstructed]) -> torch.Tensor:
    """(1, H, W, 3): the mean distance of the pictures after every step."""
    lines = []
    for place, ((_, text_scale), way) in enumerate(zip(ways, made, strict=True)):
        name = "as set" if place == 0 else "no guidance"
        distances = way.distances.mean(1).tolist()
        lines.append(Line(f"{name}, text scale {text_scale:g}", range(len(distances)), distances))
    chart = line_chart(
        "Distance to the trajectory",
        "step, from noise to picture",
        "root mean square, latent units",
        lines,
    )
    return torch.from_numpy(chart)[None]
