"""Node: the small model that ships with the pack."""

from pathlib import Path

from .host.demo_model import load_demo_model
from .host.sockets import io

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
                    tooltip="Its text encoder. It knows captions like 'a red circle on a blue"
                    " striped background'.",
                ),
                io.Vae.Output("vae", tooltip="Its VAE, for VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model(DEMO_MODEL))
