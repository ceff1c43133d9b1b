"""Node: where the model sees the words of a prompt."""

import numpy as np
import torch

from ...nmg_sampler import InvalidInput
from ...nmg_sampler.looks import masks_of
from ...nmg_sampler.words import find_each
from ..drawing.overlay import overlay
from ..host.api.sockets import Trajectory, io
from ..host.api.speaking import speaking_as
from ..host.models.words import source_words
from ..host.runs import run_attention_maps

_PIXELS = 8  # per latent cell, of every family that has words to look at


class NMGAttentionMaps(io.ComfyNode):
    """What the model thinks is where, before anything is edited."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGAttentionMaps",
            display_name="NMG Attention Maps",
            category="NMG",
            description=(
                "Shows where the model sees the words of a picture's prompt: the cross-attention"
                " of each word while the picture is inverted, as a mask and as heat over the"
                " picture. For finding words that the model knows, and for masks without painting."
            ),
            search_aliases=[
                "cross attention map",
                "DAAM",
                "heat map",
                "word mask",
                "attention mask",
                "segment by word",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model the picture was inverted with."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The CLIP the prompt was encoded with. Not needed with a prompt of NMG"
                    " Prompts, which keeps its words.",
                ),
                Trajectory.Input("trajectory", tooltip="From NMG Invert or Load NMG Trajectory."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    tooltip="The text of NMG Invert's prompt, word for word. Leave it empty with a"
                    " prompt of NMG Prompts.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the prompt, separated by commas, as in"
                    " 'cat, wooden table'. Empty: every word.",
                ),
                io.Int.Input(
                    "levels",
                    default=5,
                    min=1,
                    max=50,
                    tooltip="How many recorded states are looked at and averaged, 1 to 50, spread"
                    " over the middle of the trajectory. One model call of one row each.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Part of the maximum, 0 to 1, at which the masks are cut into black and"
                    " white; 0.5 is usual. 0: soft masks, 1 where the word is seen most.",
                ),
                io.Int.Input(
                    "factor",
                    default=0,
                    min=0,
                    max=8,
                    optional=True,
                    advanced=True,
                    tooltip="Which layers are looked at: latent cells per cell of the map, 0 to 8;"
                    " the model's nearest are taken. 0: a quarter of the latent's resolution, but"
                    " at least 16 cells on its shorter side.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture, to lay the maps over; the masks then have its size."
                    " Without it the maps are shown on grey.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "mask",
                    tooltip="One for every word and picture, word after word. Of one word it is a"
                    " mask for NMG Sample.",
                ),
                io.Image.Output("image", tooltip="The maps as heat, with their words."),
                io.String.Output("words", tooltip="The words, in the order of the masks."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        *,
        clip=None,
        trajectory,
        prompt,
        words,
        levels,
        threshold=0.0,
        factor=0,
        image=None,
    ) -> io.NodeOutput:
        with speaking_as("NMG Attention Maps"):
            pictures, _, height, width = trajectory.shape
            canvas = _canvas(image, pictures, (height * _PIXELS, width * _PIXELS))
            tokens = source_words(trajectory.source, clip, prompt)
            chosen = find_each(tokens, words)
            maps, cost = run_attention_maps(
                model, trajectory, list(chosen.values()), len(tokens.ids), levels, factor
            )
            masks = masks_of(maps, tuple(canvas.shape[1:3]), threshold)
        shown = [
            torch.from_numpy(overlay(picture, mask.numpy(), word))
            for word, of_word in zip(chosen, masks, strict=True)
            for picture, mask in zip(canvas, of_word, strict=True)
        ]
        return io.NodeOutput(
            masks.flatten(0, 1), torch.stack(shown), ", ".join(chosen), ui={"nmg": [cost]}
        )


def _canvas(image: torch.Tensor | None, pictures: int, size: tuple[int, int]) -> np.ndarray:
    """(pictures, H, W, 3) 0..1: the picture of each map, or grey."""
    if image is None:
        return np.full((pictures, *size, 3), 0.5, np.float32)
    if len(image) not in (1, pictures):
        raise InvalidInput.of(
            "image",
            "does not fit the trajectory",
            f"{len(image)} pictures",
            f"{pictures}" if pictures == 1 else f"1 or {pictures}",
            "Connect the picture that was inverted.",
        )
    array = image[..., :3].float().cpu().numpy()
    return np.broadcast_to(array, (pictures, *array.shape[1:]))
