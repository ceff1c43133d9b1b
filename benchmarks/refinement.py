"""How far plain reconstruction is from the picture with refined inversion steps.

    python tools/run.py benchmarks/refinement.py

Pictures of the demo model, text scale 1, no guidance method; PSNR against the VAE round trip.
Writes a table to standard output.
"""

from __future__ import annotations

import argparse
from statistics import mean

import torch
from demo_edits import Bench, draw_edits, psnr

SETTINGS = (("official-masactrl", 25), ("official-masactrl", 50))
ITERATIONS = (0, 1, 2, 4)


def reconstruct(bench: Bench, schedule: str, steps: int, iterations: int) -> float:
    """Mean PSNR in dB."""
    with torch.inference_mode():
        trajectory = bench.nodes.NMGInvert.execute(
            bench.model,
            bench.source_prompts,
            bench.latent,
            steps,
            schedule,
            refine_iterations=iterations,
        ).args[0]
    plain = bench.nodes.NMGPlainGuidance.execute().args[0]
    pictures, _ = bench.sample(trajectory, bench.source_prompts, 1.0, plain)
    return mean(psnr(*pair) for pair in zip(bench.round_trip, pictures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=16)
    arguments = parser.parse_args()
    bench = Bench(draw_edits(arguments.pictures, seed=20_270_303))
    print("| schedule | steps | " + " | ".join(f"{k} iterations" for k in ITERATIONS) + " |")
    print("|---" * (2 + len(ITERATIONS)) + "|")
    for schedule, steps in SETTINGS:
        cells = [f"{reconstruct(bench, schedule, steps, k):.1f}" for k in ITERATIONS]
        print(f"| {schedule} | {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
