"""Fit the factors of the live preview, by which a latent is shown as a small picture.

    python tools/run.py demo/training/preview.py

Prints PREVIEW_FACTORS and PREVIEW_BIAS of nodes/host/models/demo_model.py: the least squares from
latents of the demo VAE to the colours of the pixels that each stands for.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

demo_folder = Path(__file__).resolve().parents[1]
if str(demo_folder.parent) not in sys.path:
    sys.path.insert(0, str(demo_folder.parent))

from demo import scenes  # noqa: E402
from tools.console import answer  # noqa: E402
from tools.host_process import boot  # noqa: E402

COUNT, SEED = 256, 20_260_201
CELL = 8  # pixels


def samples(model, vae) -> tuple[np.ndarray, np.ndarray]:
    """Latents (n, 4) in the model's space and the mean colours (n, 3) -1..1 of their cells."""
    import torch

    rng = np.random.default_rng(SEED)
    pictures = np.stack([scenes.render(scenes.random_scene(rng)) for _ in range(COUNT)])
    with torch.inference_mode():
        latents = model.model.process_latent_in(vae.encode(torch.from_numpy(pictures))).float()
    size = pictures.shape[1] // CELL
    cells = pictures.reshape(COUNT, size, CELL, size, CELL, 3).mean((2, 4))
    colours = 2 * cells.reshape(-1, 3) - 1
    return latents.movedim(1, -1).reshape(-1, latents.shape[1]).numpy(), colours


def main() -> None:
    """The command line."""
    boot()
    host = importlib.import_module("nmg_pack.nodes.host.models.demo_model")
    model, _, vae = host.load_demo_model(demo_folder / "model.safetensors")
    latents, colours = samples(model, vae)
    known = np.concatenate([latents, np.ones((len(latents), 1))], 1)
    found, *_ = np.linalg.lstsq(known, colours, rcond=None)
    left, whole = known @ found - colours, colours - colours.mean(0)
    explained = 1 - (left**2).sum(0) / (whole**2).sum(0)
    answer(f"PREVIEW_FACTORS = {np.round(found[:-1], 4).tolist()}")
    answer(f"PREVIEW_BIAS = {np.round(found[-1], 4).tolist()}")
    answer(f"explained variance of R, G, B: {np.round(explained, 3).tolist()}")


if __name__ == "__main__":
    main()
