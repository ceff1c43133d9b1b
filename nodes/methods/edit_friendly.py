"""Node: a picture's latent to the noise of a random run, and the method that samples with it."""

import torch

from ...nmg_sampler.methods import EditFriendly, skip_noisiest
from ..host.api.advice import advise
from ..host.api.sockets import Guidance, Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.models.model import SCHEDULES, make_schedule
from ..host.runs import run_edit_friendly
from ..host.runs.advice import about_noise_mask


class NMGEditFriendly(io.ComfyNode):
    """Inversion with randomness in it: every seed is another edit of the same picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGEditFriendly",
            display_name="Edit-Friendly Inversion",
            category="NMG/guidance",
            description=(
                "Another inversion and its method for NMG Sample (Edit-Friendly DDPM, arXiv"
                " 2304.06140): finds the noise that random sampling would need to give the picture"
                " back, and edits with that noise. Connect BOTH outputs to NMG Sample. Two model"
                " calls of one row per step."
            ),
            search_aliases=[
                "edit friendly ddpm",
                "ddpm inversion",
                "unsampler",
                "noise extraction",
                "real image edit",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to invert with, and later to edit with."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The source prompt: describes the picture as it is."
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The unconditional prompt: an empty CLIP Text Encode, the same as on"
                    " NMG Sample.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The picture, from VAE Encode with the VAE of this model. Any size and"
                    " batch. Outside a noise mask on it the latent stays exactly as it was.",
                ),
                io.Int.Input(
                    "steps",
                    default=100,
                    min=1,
                    max=1000,
                    tooltip="Number of steps, 1 to 1000, those that are skipped among them. 100 is"
                    " what the paper uses.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=SCHEDULES,
                    default="official-masactrl",
                    tooltip="Which noise levels the steps visit. 'official-masactrl': as the"
                    " published code; the others as on NMG Invert.",
                ),
                io.Float.Input(
                    "source_scale",
                    default=3.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Text guidance of the inversion, 0 to 100, dimensionless; 3.5 is the"
                    " paper's. With the source prompt and this text_scale NMG Sample gives the"
                    " picture back. With an editor: set it to NMG Sample's text_scale.",
                ),
                io.Int.Input(
                    "skip",
                    default=36,
                    min=0,
                    max=999,
                    tooltip="The preserve <-> change knob, 0 to 999, fewer than steps: how many of"
                    " the noisiest steps are left out. 0: none, most change; 36 of 100: as the"
                    " paper; more: closer to the picture, and faster.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    # Another seed is another inversion: never after each run.
                    control_after_generate=False,
                    tooltip="Of the noise, 0 to 4294967295. Another seed is another edit of the"
                    " same picture.",
                ),
            ],
            outputs=[
                Guidance.Output("guidance", tooltip="The method, for NMG Sample."),
                Trajectory.Output(
                    "trajectory",
                    tooltip="The states and the noise between them, for NMG Sample or Save NMG"
                    " Trajectory. Of no use with another method.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        steps,
        schedule,
        source_scale,
        skip,
        seed,
    ) -> io.NodeOutput:
        with speaking_as("Edit-Friendly Inversion"):
            levels = skip_noisiest(make_schedule(model, schedule, steps), skip)
            generator = torch.Generator().manual_seed(seed)
            advice = advise(
                cls, "Edit-Friendly Inversion", about_noise_mask(latent_image.get("noise_mask"))
            )
            trajectory, cost = run_edit_friendly(
                model, positive, negative, latent_image, levels, source_scale, generator
            )
        return io.NodeOutput(EditFriendly(), trajectory, ui={"nmg": [cost], **advice})
