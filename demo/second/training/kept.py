"""Weights so far, small enough for the repository: averaged, float16, without optimizer state.

`keep` writes them from checkpoints, `restore` makes checkpoints of them to go on from.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from demo.second.training import loop

folder = Path(__file__).resolve().parent / "weights"
# Stages of training, and finished VAEs. Of the VAE of a kind the best one is kept.
stages = (
    "vae_sd",
    "vae_flow",
    "text_sd",
    "text_flow",
    "flow",
    "unet",
    "decoder_sd",
    "decoder_flow",
)
vaes = ("vae_sd_folded", "vae_flow_folded")


def keep(checkpoints: Path, output: Path = folder) -> list[Path]:
    """Write `<name>.safetensors` of everything that `checkpoints` has; returns what was written."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name in (*stages, *vaes):
        path = checkpoints / f"{name}.pt"
        if path.is_file() and not _superseded(checkpoints, name):
            written.append(_write(path, output / f"{name}.safetensors"))
    return written


def _superseded(checkpoints: Path, name: str) -> bool:
    """Text encoders go on inside the picture network, raw VAEs end as folded ones."""
    later = {"text_sd": "unet", "text_flow": "flow"}.get(name)
    if name.startswith("vae_") and name in stages:
        later = f"{name}_folded"
    return later is not None and (checkpoints / f"{later}.pt").is_file()


def _write(path: Path, target: Path) -> Path:
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = state.get("averaged", state)
    numbers = {key: state[key] for key in ("step", "seconds") if key in state}
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in weights.items()}
    save_file(tensors, target, {"format": "pt", "training": json.dumps(numbers)})
    target.chmod(0o644)
    return target


def restore(checkpoints: Path, source: Path = folder) -> list[Path]:
    """Make the checkpoints that `checkpoints` has not from the kept weights.

    The optimizers start anew.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    made = []
    for path in sorted(source.glob("*.safetensors")):
        target = checkpoints / f"{path.stem}.pt"
        if target.is_file():
            continue
        with safe_open(path, framework="pt") as file:
            numbers = json.loads((file.metadata() or {}).get("training", "{}"))
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        state: dict = weights
        if path.stem in stages:
            state = {"network": weights, "averaged": weights, "optimizer": None, **numbers}
        loop.save_state(state, target)
        made.append(target)
    return made
