"""Node: a trajectory to an edited picture."""

from ...nmg_sampler import Mode
from ..host.api.advice import advise
from ..host.api.sockets import Editor, Guidance, Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.runs import run_sampling
from ..host.runs.advice import about_sampling
from .inputs import choose_guidance, gradient_scale_input, mode_input, noise_map_scale_input


class NMGSample(io.ComfyNode):
    """What the prompt does not mention stays where it was."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGSample",
            display_name="NMG Sample",
            category="NMG",
            description=(
                "Samples back along a trajectory under a new prompt, held to the picture's noise"
                " maps by Noise Map Guidance (arXiv 2402.04625), so that what the prompt does not"
                " mention stays where it was. With the source prompt it reconstructs the picture."
            ),
            search_aliases=[
                "real image edit",
                "keep background",
                "noise map guidance",
                "resample",
                "edit picture",
                "img2img alternative",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model the picture was inverted with. LoRAs may be added.",
                ),
                Trajectory.Input("trajectory", tooltip="From NMG Invert or Load NMG Trajectory."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The target prompt: the source prompt with your change in it. Several"
                    " prompts (NMG Prompts) are as many edits of the picture at once.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The unconditional prompt: an empty CLIP Text Encode, as in the paper."
                    " Words here push away from them.",
                ),
                io.Float.Input(
                    "text_scale",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Strength of the target prompt (classifier-free guidance), 0 to 100,"
                    " dimensionless. 1: none, closest to the picture; 3 to 10: usual; higher:"
                    " more change, less faithful.",
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
                Editor.Input(
                    "editor",
                    optional=True,
                    tooltip="Prompt-to-Prompt, MasaCtrl or pix2pix-zero: a source branch, held to"
                    " the picture, runs beside the edit, which takes its attention from there.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the picture may change (white). Noise Map Guidance holds weakly"
                    " there and strongly elsewhere, other methods put the picture back elsewhere;"
                    " with an editor the edit is the source branch elsewhere. Any size; all white"
                    " is a weak hold, and no mask a uniform one.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="The edit, for VAE Decode; of several prompts one per prompt."
                ),
                io.Latent.Output(
                    "source",
                    tooltip="The source branch: what the picture becomes under its own prompt."
                    " Without an editor there is none: the picture's own clean latent.",
                ),
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
        with speaking_as("NMG Sample"):
            guidance = choose_guidance(guidance, mode, noise_map_scale, gradient_scale)
            advice = advise(
                cls,
                "NMG Sample",
                about_sampling(trajectory, positive, negative, guidance, text_scale, mask, editor),
            )
            edit, source, cost = run_sampling(
                model, trajectory, positive, negative, guidance, text_scale, mask, editor
            )
        kept = {} if trajectory.noise_mask is None else {"noise_mask": trajectory.noise_mask}
        latents = [{"samples": samples, **kept} for samples in (edit, source)]
        return io.NodeOutput(*latents, ui={"nmg": [cost], **advice})
