"""How strongly to hold inside and outside of a mask: edits with their true mask on NMG Sample.

    python tools/run.py benchmarks/mask_factors.py

Prints a table of edit success and PSNR outside the mask (against the VAE round trip) per pair of
factors; the first line, 1 and 1, is the uniform hold. The defaults of NMG Guidance follow it.
"""

from __future__ import annotations

import argparse
from statistics import mean

import numpy as np
import torch
from demo_edits import Bench, draw_edits, psnr
from tqdm import tqdm

FACTORS = ((1.0, 1.0), (0.0, 5.0), (0.2, 5.0), (0.5, 5.0), (0.2, 10.0), (0.2, 20.0), (0.0, 2.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--text-scale", type=float, default=5.0)
    parser.add_argument("--noise-map-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    edits = draw_edits(arguments.scenes, seed=777)
    bench = Bench(edits)
    trajectory = bench.invert(arguments.steps, "official-masactrl")
    mask = torch.from_numpy(np.stack([edit.may_change for edit in edits]).astype(np.float32))
    lines = []
    for inside, outside in tqdm(FACTORS, mininterval=10):
        guidance = bench.nodes.NMGGuidance.execute(
            "fused",
            "direct",
            "l1",
            "auto",
            arguments.noise_map_scale,
            5000.0,
            0.0,
            1.0,
            inside,
            outside,
        ).args[0]
        pictures, _ = bench.sample(
            trajectory, bench.target_prompts, arguments.text_scale, guidance, mask
        )
        figures = []
        for kind in ("colour", "background"):
            chosen = [n for n, edit in enumerate(edits) if edit.kind == kind]
            stays = {n: ~edits[n].may_change for n in chosen}
            figures.append(f"{mean(edits[n].succeeded(pictures[n]) for n in chosen):.2f}")
            outside_db = [
                psnr(bench.round_trip[n][stays[n]], pictures[n][stays[n]]) for n in chosen
            ]
            figures.append(f"{mean(outside_db):.2f}")
        lines.append(f"| {inside:g} | {outside:g} | {' | '.join(figures)} |")
    print("| inside | outside | colour success | dB outside | background success | dB outside |")
    print("|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
