"""How far a reconstruction is from the picture when there are few steps.

    python tools/run.py benchmarks/few_steps.py

Pictures of the demo model, inverted and sampled back under their own prompt by NMG Sample; mean
PSNR against the VAE round trip. Writes a table to standard output.
"""

from __future__ import annotations

import argparse
import sys
from statistics import mean
from typing import Any

import torch
from demo_edits import Bench, draw_edits, psnr

STEPS = (4, 8, 12, 20, 50)
SCALES = (0.0, 0.5, 1.5, 5.0)
TEXT_SCALES = (1.0, 3.0, 7.5)


def reconstruct(bench: Bench, trajectory: Any, text_scale: float, scale: float) -> float:
    """Mean PSNR in dB under NMG, fused and direct."""
    node = bench.nodes.NMGGuidance
    guidance = node.execute("fused", "direct", "l1", "auto", scale, 5000.0, 0.0, 1.0).args[0]
    pictures, _ = bench.sample(trajectory, bench.source_prompts, text_scale, guidance)
    return mean(psnr(*pair) for pair in zip(bench.round_trip, pictures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--schedule", default="official-masactrl")
    arguments = parser.parse_args()
    bench = Bench(draw_edits(arguments.pictures, seed=20_280_401))
    names = [f"noise map scale {scale:g}" for scale in SCALES]
    print(f"| steps | text scale | {' | '.join(names)} |")
    print("|---" * (2 + len(SCALES)) + "|")
    for steps in STEPS:
        trajectory = bench.invert(steps, arguments.schedule)
        for text_scale in TEXT_SCALES:
            found = [reconstruct(bench, trajectory, text_scale, scale) for scale in SCALES]
            cells = " | ".join(f"{value:.1f}" for value in found)
            print(f"| {steps} | {text_scale:g} | {cells} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
