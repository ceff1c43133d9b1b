"""Measure the demo models: python demo/second/training/evaluate.py --kind KIND --checkpoints FOLDER

The checkers on true pictures, the VAE on held-out pictures, and what pictures sampled from captions
show, as far as each is trained. Intervals are 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

own_folder = Path(__file__).resolve().parent
root = own_folder.parents[2]
sys.path[:] = [str(root), *(e for e in sys.path if Path(e or ".").resolve() != own_folder)]

batch = 20
seed = 20_260_101


def main() -> None:
    options = _options()
    figures: dict = {"settings": {"steps": options.steps, "text_scale": options.text_scale}}
    if options.true_pictures:
        figures["checker"] = measure_checkers(options.true_pictures)
        print(row("checkers on true pictures", figures["checker"]["all"]))
    if options.kind:
        from tools.host_process import boot

        boot(options.comfyui, ["--cpu"])
        import torch

        torch.set_num_threads(options.threads)
        figures.update(measure_model(options))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("sd", "flow"), help="model; the checkers alone if none")
    parser.add_argument("--comfyui", type=Path, help="folder of ComfyUI (or set COMFYUI_PATH)")
    parser.add_argument("--checkpoints", type=Path, default=root / "demo" / "checkpoints")
    parser.add_argument("--true-pictures", type=int, default=0, help="read so many true pictures")
    parser.add_argument("--held-out", type=int, default=200, help="pictures for the VAE")
    parser.add_argument("--captions", type=int, default=100, help="to sample; 0 for none")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--text-scale", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--grid", type=Path, help="write the first samples as a PNG here")
    parser.add_argument("--round-trips", type=Path, help="write pictures beside VAE round trips")
    return parser.parse_args()


def measure_checkers(count: int) -> dict:
    """How often the checkers read a true picture right, by word."""
    from demo.second import scenes
    from demo.second.training import pool

    wanted = [pool.scene_at(i, pool.held_out_seed) for i in range(count)]
    return accuracies(np.stack([scenes.render(scene) for scene in wanted]), wanted)


def measure_model(options: argparse.Namespace) -> dict:
    """Figures of the VAE and, if there is one, of the picture network."""
    figures: dict = {}
    vae = load_vae(options.kind, options.checkpoints)
    if vae is not None and options.held_out:
        figures["vae_psnr_db"] = measure_vae(vae, options)
    network, step = load_network(options.kind, options.checkpoints)
    if network is not None and vae is not None and options.captions:
        figures["step"] = step
        figures["sampled"] = measure_samples(vae, network, options)
    return figures


def load_vae(kind: str, checkpoints: Path):
    """The best VAE of the folder without gradients, None if it has none."""
    import torch

    from demo.second.training import loop, networks

    vae = networks.make_vae(kind, torch.Generator())
    for name in ("polished", "folded"):
        path = checkpoints / f"vae_{kind}_{name}.pt"
        if path.is_file():
            vae.load_state_dict(torch.load(path, weights_only=True))
            return vae.eval().requires_grad_(False)
    path = checkpoints / f"vae_{kind}.pt"
    if not path.is_file():
        return None
    print(f"VAE in training, step {loop.load_averaged(path, vae)}")
    return vae.eval().requires_grad_(False)


def load_network(kind: str, checkpoints: Path):
    """The averaged picture network with its text encoder and its step; (None, 0) without one."""
    import torch
    from torch import nn

    from demo.second.training import loop, networks
    from demo.second.training.vocabulary import Vocabulary

    name = "flow" if kind == "flow" else "unet"
    path = checkpoints / f"{name}.pt"
    if not path.is_file():
        return None, 0
    generator = torch.Generator()
    rows = len(Vocabulary(networks.text_columns[kind]).tokens)
    make = networks.make_flow if kind == "flow" else networks.make_unet
    network = nn.ModuleDict(
        {name: make(generator), "text": networks.make_text(kind, rows, generator)}
    )
    step = loop.load_averaged(path, network)
    return network.eval().requires_grad_(False), step


def measure_vae(vae, options: argparse.Namespace) -> dict:
    from demo.second.training import pool, vae_stage

    found = vae_stage.held_out_db(vae, options.held_out)
    kinds = [pool.scene_at(i, pool.held_out_seed).background_type for i in range(options.held_out)]
    by_type = {
        word: float(found[[other == word for other in kinds]].mean()) for word in sorted(set(kinds))
    }
    print(row("VAE reconstruction, dB", interval(found)))
    print("  by background: " + ", ".join(f"{key} {value:.1f}" for key, value in by_type.items()))
    if options.round_trips:
        _save_round_trips(vae, options.round_trips)
    return {**interval(found), "by_background": by_type}


def _save_round_trips(vae, path: Path, count: int = 16) -> None:
    from demo.second.training import networks, pool, sample, vae_stage

    true = np.stack([pool.picture_at(i, pool.held_out_seed) for i in range(count)])
    back = sample.pictures(vae, networks.encode(vae, vae_stage.to_tensor(true))[0])
    pairs = np.concatenate([true / 255.0, back], axis=1)
    save_grid(pairs, path, columns=8)


def measure_samples(vae, network, options: argparse.Namespace) -> dict:
    """Sample held-out captions and read the pictures."""
    from demo.second import scenes
    from demo.second.training import networks, pool, sample
    from demo.second.training.vocabulary import Vocabulary

    vocabulary = Vocabulary(networks.text_columns[options.kind])
    wanted = [pool.scene_at(i, seed) for i in range(options.captions)]
    captions = [scenes.caption(scene) for scene in wanted]
    started, parts = time.monotonic(), []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        found = sample.latents(
            options.kind,
            network,
            vocabulary,
            part,
            options.steps,
            options.text_scale,
            seed + start,
        )
        parts.append(sample.pictures(vae, found))
    pictures = np.concatenate(parts)
    print(f"{(time.monotonic() - started) / len(captions):.2f} s per picture")
    if options.grid:
        save_grid(pictures, options.grid)
    found = accuracies(pictures, wanted)
    for key, value in found.items():
        if "mean" in value:
            print(row(f"sampled: {key}", value))
    print("  shape by word: " + ", ".join(f"{k} {v:.2f}" for k, v in found["by_shape"].items()))
    return found


def accuracies(pictures: np.ndarray, wanted: list) -> dict:
    """Share of pictures (n, 128, 128, 3) that obey each word of their scene's caption.

    `two` is `all` of the scenes with two objects; `by_shape` is the shape of lone objects by word.
    """
    from demo.second.training import checkers

    right = [
        checkers.right(checkers.read_scene(picture), scene)
        for picture, scene in zip(pictures, wanted, strict=True)
    ]
    found = {key: interval(np.array([float(r[key]) for r in right])) for key in right[0]}
    pairs = [float(r["all"]) for r, s in zip(right, wanted, strict=True) if len(s.things) == 2]
    if pairs:
        found["two"] = interval(np.array(pairs))
    lone = [(r, s) for r, s in zip(right, wanted, strict=True) if len(s.things) == 1]
    words = sorted({s.things[0].shape for _, s in lone})
    found["by_shape"] = {
        word: float(np.mean([r["shape"] for r, s in lone if s.things[0].shape == word]))
        for word in words
    }
    return found


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean and 95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def row(name: str, found: dict[str, float]) -> str:
    return f"{name:28}{found['mean']:8.3f}   {found['low']:.3f} .. {found['high']:.3f}"


def save_grid(pictures: np.ndarray, path: Path, columns: int = 10) -> None:
    """Pictures as one PNG, row by row; the last row is left out if it is not full."""
    from PIL import Image

    rows = [
        np.concatenate(pictures[start : start + columns], axis=1)
        for start in range(0, len(pictures) - columns + 1, columns)
    ]
    grid = np.concatenate(rows, axis=0)
    Image.fromarray((grid * 255.0 + 0.5).astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
