"""Node: a picture's latent to a trajectory."""

import logging
from functools import partial

import torch

from ...nmg_sampler.methods import NoiseRegularization
from ..host.api.advice import advise, is_fed_to
from ..host.api.sockets import Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.models.model import SCHEDULES, make_custom_schedule, make_schedule
from ..host.runs import run_inversion
from ..host.runs.advice import about_noise_mask

_WITHOUT_MASK = (
    "NMG Invert: the trajectory keeps the noise mask, the half-done latent comes without it:"
    " outside of it another sampler would leave the noise of that latent in the picture."
)


class NMGInvert(io.ComfyNode):
    """Invert once, edit as often as you like."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGInvert",
            display_name="NMG Invert",
            category="NMG",
            description=(
                "Turns a real picture into a trajectory: the noise maps that lead from the picture"
                " to noise under a prompt describing it (DDIM inversion). NMG Sample goes back"
                " along it under a new prompt. One model call per step, without text guidance."
            ),
            search_aliases=[
                "unsampler",
                "DDIM inversion",
                "real image edit",
                "invert picture",
                "img2img alternative",
                "noise map guidance",
                "null text",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to invert with, and later to edit with, with its LoRAs and"
                    " patches: SD 1.x, SD 2.x, SDXL, SD 3, Flux, WAN or LTX-Video.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The source prompt: describes the picture as it is. The closer, the"
                    " better the reconstruction.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The picture, from VAE Encode with the VAE of this model. Any size and"
                    " batch. A noise mask on it is kept: outside of it NMG Sample leaves the latent"
                    " exactly as it was.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Number of steps, 1 to 1000. More steps reconstruct better (the error"
                    " falls as 1/steps) and take longer. 50 is what the papers use.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=SCHEDULES,
                    default="official-masactrl",
                    tooltip="Which noise levels the steps visit. 'official-masactrl': as the"
                    " published code with MasaCtrl and most inversion papers, the most faithful"
                    " one; 'official': as the published code with Prompt-to-Prompt, for SD and SDXL"
                    " alone; the others are this ComfyUI's schedulers.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Your own noise levels, noisiest first as schedulers give them (no"
                    " FlipSigmas). Replaces steps and schedule.",
                ),
                io.Int.Input(
                    "regularize",
                    default=0,
                    min=0,
                    max=50,
                    optional=True,
                    advanced=True,
                    tooltip="Rounds per step, 0 to 50, that make the predicted noise whiter before"
                    " the step (pix2pix-zero). 0: off; 5: as the paper, which edits better with it."
                    " Plain reconstruction gets a little worse. No further model calls.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    # Another seed is another inversion: never after each run.
                    control_after_generate=False,
                    optional=True,
                    advanced=True,
                    tooltip="Of the random shifts that regularize compares the noise at, 0 to"
                    " 4294967295. Without regularize it has no effect: inversion draws nothing.",
                ),
                io.Int.Input(
                    "refine_iterations",
                    default=0,
                    min=0,
                    max=20,
                    optional=True,
                    advanced=True,
                    tooltip="Model calls per step, 0 to 20, that make the step the exact inverse of"
                    " a sampling step. 0: plain DDIM inversion; 1 to 3: plain reconstruction gets"
                    " much better, at as many times the cost more.",
                ),
            ],
            outputs=[
                Trajectory.Output(
                    "trajectory",
                    tooltip="All noise maps of the picture, for NMG Sample or Save NMG Trajectory.",
                ),
                io.Latent.Output(
                    "latent",
                    tooltip="The noisiest state alone, as a half-done latent: a start for KSampler"
                    " (Advanced) without added noise. No picture: VAE Decode makes noise of it.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        latent_image,
        steps,
        schedule,
        sigmas=None,
        regularize=0,
        seed=0,
        refine_iterations=0,
    ) -> io.NodeOutput:
        with speaking_as("NMG Invert"):
            if sigmas is None:
                levels = make_schedule(model, schedule, steps)
            else:
                levels = make_custom_schedule(model, sigmas)
            whiten = None
            if regularize != 0:
                generator = torch.Generator().manual_seed(seed)
                whiten = partial(NoiseRegularization(regularize), generator=generator)
            advice = advise(cls, "NMG Invert", _advice(cls, latent_image))
            trajectory, noisiest, cost = run_inversion(
                model, positive, latent_image, levels, whiten, refine_iterations
            )
        half_done = {**latent_image, "samples": noisiest}
        if half_done.pop("noise_mask", None) is not None:
            logging.info(_WITHOUT_MASK)
        return io.NodeOutput(trajectory, half_done, ui={"nmg": [cost], **advice})


def _advice(node: type[io.ComfyNode], latent: dict) -> list[str]:
    lines = about_noise_mask(latent.get("noise_mask"))
    if is_fed_to(node, 1, ("VAEDecode", "VAEDecodeTiled")):
        lines.append(
            "The output latent is the picture's noise, and VAE Decode makes no picture of it."
            " Connect trajectory to NMG Sample, and decode that."
        )
    return lines
