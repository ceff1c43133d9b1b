"""Nodes: the small model that ships with the pack, and pictures for it."""

from pathlib import Path

import numpy as np
import torch

from ..demo import scenes
from .host.api.sockets import io
from .host.models.demo_model import load_demo_model

DEMO_MODEL = Path(__file__).parent.parent / "demo" / "model.safetensors"


class NMGDemoModel(io.ComfyNode):
    """Try everything with nothing downloaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGDemoModel",
            display_name="NMG Demo Model",
            category="NMG/demo",
            description=(
                "A tiny text-to-image model of coloured shapes that ships with the pack (128x128"
                " pixels). For trying the workflows and for tests: no download. Use Load Checkpoint"
                " for real pictures."
            ),
            search_aliases=["demo checkpoint", "tiny model", "example model"],
            inputs=[],
            outputs=[
                io.Model.Output("model", tooltip="The diffusion model, SD 1.x in small."),
                io.Clip.Output(
                    "clip",
                    tooltip="Its text encoder. It knows captions like 'a red circle on a plain"
                    " blue background'.",
                ),
                io.Vae.Output("vae", tooltip="Its VAE, for VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model(DEMO_MODEL))


class NMGDemoPicture(io.ComfyNode):
    """A picture that the demo model understands."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NMGDemoPicture",
            display_name="NMG Demo Picture",
            category="NMG/demo",
            description=(
                "Draws a picture of one shape on a background, 128x128 pixels, with its caption:"
                " something to edit with NMG Demo Model. For your own pictures use Load Image."
            ),
            search_aliases=["demo image", "example picture"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=24,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=True,
                    tooltip="Which picture, 0 to 4294967295. The same seed draws the same picture.",
                )
            ],
            outputs=[
                io.Image.Output("image", tooltip="The picture, for VAE Encode."),
                io.String.Output(
                    "caption", tooltip="Its caption: the source prompt for NMG Invert."
                ),
            ],
        )

    @classmethod
    def execute(cls, seed) -> io.NodeOutput:
        scene = scenes.random_scene(np.random.default_rng(seed))
        image = torch.from_numpy(scenes.render(scene))[None]  # (H, W, 3) -> (1, H, W, 3)
        return io.NodeOutput(image, scenes.caption(scene))


NODES: list[type[io.ComfyNode]] = [NMGDemoModel, NMGDemoPicture]
