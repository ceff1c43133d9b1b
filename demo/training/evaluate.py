"""Measure the demo model: python demo/training/evaluate.py --comfyui PATH

VAE reconstruction on held-out pictures, and what pictures sampled from captions show, through the
host's own sampling path. Prints a table and writes JSON; intervals are 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

demo_folder = Path(__file__).resolve().parents[1]
if str(demo_folder.parent) not in sys.path:
    sys.path.insert(0, str(demo_folder.parent))

from demo import scenes  # noqa: E402
from demo.training import checkers  # noqa: E402

attributes = ("colour", "background", "background_type", "shape")
targets = {
    "vae_psnr_db": 28.0,
    "colour": 0.95,
    "background": 0.95,
    "background_type": 0.95,
    "shape": 0.80,
}
checker_target = 0.97
batch = 20


@dataclass(frozen=True)
class Settings:
    """How pictures are sampled; `seed` draws scenes and noise that training never sees."""

    captions: int = 200
    held_out: int = 200
    steps: int = 50
    text_scale: float = 5.0
    sampler: str = "ddim"
    scheduler: str = "normal"
    seed: int = 20_260_101


def evaluate(path: Path, settings: Settings) -> tuple[dict, np.ndarray, list[scenes.Scene]]:
    """Figures of the model at `path`, and the sampled pictures (n, 128, 128, 3) with their scenes.

    Call after `tools.host_process.boot()`.
    """
    import torch

    host = importlib.import_module("nmg_pack.nodes.host.models.demo_model")
    rng = np.random.default_rng(settings.seed)
    held_out = [scenes.random_scene(rng) for _ in range(settings.held_out)]
    wanted = [scenes.random_scene(rng) for _ in range(settings.captions)]
    with torch.inference_mode():
        model, clip, vae = host.load_demo_model(path)
        psnr = np.array([_psnr_db(vae, scene) for scene in held_out])
        started = time.monotonic()
        pictures = _sample(model, clip, vae, [scenes.caption(s) for s in wanted], settings)
        seconds = time.monotonic() - started
    figures = {
        "settings": vars(settings),
        "seconds_per_picture": seconds / settings.captions,
        "vae_psnr_db": _interval(psnr),
        "vae_psnr_db_by_background": _mean_by(psnr, [s.background_type for s in held_out]),
        "checker_accuracy": _accuracies([scenes.render(s) for s in held_out], held_out),
        "sampled": _accuracies(list(pictures), wanted),
        "shape_by_word": _mean_by(
            np.array([_right(p, s)["shape"] for p, s in zip(pictures, wanted, strict=True)]),
            [s.shape for s in wanted],
        ),
    }
    return figures, pictures, wanted


def failures(figures: dict) -> list[str]:
    """One line for each target that the figures miss."""
    missed = []
    for key, target in targets.items():
        found = figures[key] if key == "vae_psnr_db" else figures["sampled"][key]
        if found["mean"] < target:
            missed.append(f"{key}: got {found['mean']:.3f}; expected at least {target}")
    for key, found in figures["checker_accuracy"].items():
        if found["mean"] < checker_target:
            missed.append(
                f"checker of {key}: got {found['mean']:.3f}; expected at least {checker_target}"
            )
    return missed


def table(figures: dict) -> str:
    """The figures as text, one row per measurement."""
    rows = [("VAE reconstruction, dB", figures["vae_psnr_db"], targets["vae_psnr_db"])]
    rows += [(f"sampled: {key}", figures["sampled"][key], targets[key]) for key in attributes]
    rows += [
        (f"checker: {key}", figures["checker_accuracy"][key], checker_target) for key in attributes
    ]
    lines = [f"{'measurement':28}{'mean':>8}{'95 % interval':>18}{'target':>8}"]
    for name, found, target in rows:
        interval = f"{found['low']:.3f} .. {found['high']:.3f}"
        lines.append(f"{name:28}{found['mean']:8.3f}{interval:>18}{target:8.2f}")
    lines.append("shape by word: " + _pairs(figures["shape_by_word"]))
    lines.append("VAE dB by background: " + _pairs(figures["vae_psnr_db_by_background"]))
    return "\n".join(lines)


def _pairs(means: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.2f}" for key, value in means.items())


def _sample(model, clip, vae, captions: list[str], settings: Settings) -> np.ndarray:
    """Pictures (n, 128, 128, 3) through the host's guider, sampler and VAE."""
    pictures = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        latents = _sample_batch(model, clip, part, settings, settings.seed + start)
        pictures.append(vae.decode(latents).cpu().float().numpy())
    return np.concatenate(pictures)


def _sample_batch(model, clip, captions: list[str], settings: Settings, seed: int):
    """Latents (n, 4, 16, 16): one batch of different captions, one row of context each."""
    import comfy.sample
    import torch

    encoded = [clip.encode_from_tokens(clip.tokenize(text)) for text in captions]
    empty = clip.encode_from_tokens(clip.tokenize(""))
    blank = torch.zeros((len(captions), 4, 16, 16))
    noise = comfy.sample.prepare_noise(blank, seed)
    return comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.text_scale,
        settings.sampler,
        settings.scheduler,
        [[torch.cat(encoded), {}]],
        [[empty, {}]],
        blank,
        disable_pbar=True,
        seed=seed,
    )


def _psnr_db(vae, scene: scenes.Scene) -> float:
    import torch

    picture = torch.from_numpy(scenes.render(scene))[None]
    found = vae.decode(vae.encode(picture)).cpu().float()
    return float(-10.0 * torch.log10((found - picture).square().mean()))


def _right(picture: np.ndarray, scene: scenes.Scene) -> dict[str, float]:
    reading = checkers.read_scene(picture)
    return {key: float(getattr(reading, key) == getattr(scene, key)) for key in attributes}


def _accuracies(pictures: list[np.ndarray], wanted: list[scenes.Scene]) -> dict[str, dict]:
    right = [_right(picture, scene) for picture, scene in zip(pictures, wanted, strict=True)]
    return {key: _interval(np.array([row[key] for row in right])) for key in attributes}


def _mean_by(values: np.ndarray, words: list[str]) -> dict[str, float]:
    return {
        word: float(values[[other == word for other in words]].mean())
        for word in dict.fromkeys(words)
    }


def _interval(values: np.ndarray) -> dict[str, float]:
    """Mean and 95 % bootstrap interval of the mean."""
    if np.ptp(values) == 0.0:
        return {"mean": float(values[0]), "low": float(values[0]), "high": float(values[0])}
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return {"mean": float(values.mean()), "low": float(found.low), "high": float(found.high)}


def save_grid(pictures: np.ndarray, path: Path, columns: int = 10) -> None:
    """The first pictures as one PNG, row by row."""
    from PIL import Image

    rows = [
        np.concatenate(pictures[start : start + columns], axis=1)
        for start in range(0, len(pictures) - columns + 1, columns)
    ]
    grid = np.concatenate(rows, axis=0)
    Image.fromarray((grid * 255.0 + 0.5).astype(np.uint8)).save(path)


def main() -> None:
    options = _options()
    from tools.host_process import boot

    boot(options.comfyui, [] if options.gpu else ["--cpu"])
    settings = Settings(options.captions, options.held_out, options.steps, options.text_scale)
    figures, pictures, _ = evaluate(options.model, settings)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.grid:
        save_grid(pictures, options.grid)
    print(table(figures))
    missed = failures(figures)
    if missed:
        sys.exit("missed targets:\n  " + "\n  ".join(missed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, help="folder of ComfyUI (or set COMFYUI_PATH)")
    parser.add_argument("--model", type=Path, default=demo_folder / "model.safetensors")
    parser.add_argument("--captions", type=int, default=Settings.captions)
    parser.add_argument("--held-out", type=int, default=Settings.held_out)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--text-scale", type=float, default=Settings.text_scale)
    parser.add_argument("--json", type=Path, default=demo_folder / "evaluation.json")
    parser.add_argument("--grid", type=Path, help="also write sampled pictures as one PNG")
    parser.add_argument("--gpu", action="store_true", help="let the host choose the device")
    return parser.parse_args()


if __name__ == "__main__":
    main()
