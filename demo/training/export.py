"""Write the demo model file from checkpoints: float16 weights, architecture and model card."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from demo.training import networks, stages
from demo.training.vocabulary import Vocabulary

largest_bytes = 16 * 1024 * 1024

card = {
    "title": "Demo model of the Noise Map Guidance nodes",
    "license": "Apache-2.0",
    "data": "Pictures of one shape on one background, drawn by demo/scenes.py; no other data.",
    "recipe": "demo/training/train.py: VAE, then text encoder on attribute words, then noise "
    "prediction (Stable Diffusion 1.x levels, 128 x 128 px, 16 x 16 x 4 latents), weights "
    "averaged.",
    "limits": "Knows only the words, colours and shapes of demo/scenes.py at 128 x 128 px.",
}


def export(folder: Path, output: Path, figures: dict | None = None) -> None:
    """The model file at `output`, from the averaged weights in `folder`.

    Networks whose checkpoint is missing are exported with their initial weights.

    Args:
        figures: measured figures for the model card; none are written if None.
    """
    vocabulary, generator = Vocabulary(), torch.Generator().manual_seed(0)
    text = networks.make_text(len(vocabulary.tokens), generator)
    network = nn.ModuleDict({"unet": networks.make_unet(generator), "text": text})
    vae = networks.make_vae(generator)
    samples = 0
    if (folder / "vae_folded.pt").is_file():
        vae.load_state_dict(torch.load(folder / "vae_folded.pt", weights_only=True))
    if (folder / "unet.pt").is_file():
        state = torch.load(folder / "unet.pt", weights_only=True, mmap=True)
        network.load_state_dict(state["averaged"])
        samples = state["step"]
    elif (folder / "text.pt").is_file():
        stage = stages.TextStage(vocabulary, 1, torch.device("cpu"), generator)
        stage.network.load_state_dict(torch.load(folder / "text.pt", weights_only=True)["averaged"])
        network["text"] = stage.network["text"]
    tensors = {
        **_named(network["unet"], "unet."),
        **_named(network["text"], "text."),
        **_named(vae, "vae."),
        "text.token_rows": torch.tensor(vocabulary.tokens, dtype=torch.int32),
    }
    _write(tensors, {**card, "diffusion_steps": samples, "figures": figures or {}}, output)


def add_figures(path: Path, figures: dict) -> None:
    """Put measured figures into the model card of the file at `path`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _write(tensors, {**json.loads(metadata["card"]), "figures": figures}, path)


def _named(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {
        prefix + name: tensor.detach().half().contiguous()
        for name, tensor in network.state_dict().items()
    }


def _write(tensors: dict[str, Tensor], model_card: dict, output: Path) -> None:
    """Under a temporary name, then renamed: readers never see half a file."""
    metadata = {
        "format": "pt",
        "architecture": json.dumps(networks.architecture),
        "card": json.dumps(model_card),
    }
    part = output.with_name(output.name + ".part")
    save_file(tensors, part, metadata)
    size = part.stat().st_size
    if size > largest_bytes:
        part.unlink()
        raise ValueError(
            f"export: model file is too large. Got {size} bytes; expected at most "
            f"{largest_bytes}. Make the architecture in demo/training/networks.py smaller."
        )
    part.chmod(0o644)
    os.replace(part, output)
