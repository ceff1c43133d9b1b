"""How much a gradient pass takes, in units of what the host expects of a forward pass.

    python tools/run.py benchmarks/gradient_memory.py

From this the pack estimates, before a run, whether all activations fit into memory
(nodes/host/gradient/plans.py). One row, float32 on the CPU, random weights. The peaks are counted
by PyTorch's profiler from what is there when sampling begins, so weights do not count. Flux is not
loaded whole: it is measured with one and two blocks of each kind, of full width, and what a block
adds is added up. Writes a table to standard output.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root / "tests"), str(root)]

from full_size import SD_15, SD_XL, Kind  # noqa: E402
from host_models import Differentiation, conditioning, parity_network, random_tensor  # noqa: E402
from memory import peak_bytes  # noqa: E402

from tools.host_process import boot  # noqa: E402

PLANS = ("keep", "blocks")
FLUX_BLOCKS = 19, 38  # double and single, of the real one


class Row(NamedTuple):
    """One network: bytes that the host expects, and the peak of each plan."""

    name: str
    expected: float
    peaks: tuple[float, ...]

    def __str__(self) -> str:
        peaks = [f"{peak / 2**20:.0f} | {peak / self.expected:.1f}" for peak in self.peaks]
        return f"| {self.name} | {self.expected / 2**20:.0f} | {' | '.join(peaks)} |"


def row(name: str, model: Any, shape: tuple[int, ...], prompt: Any, level: Any = None) -> Row:
    """A network for a latent (1, channels, height, width)."""
    plans = importlib.import_module("nmg_pack.nodes.host.gradient.plans")
    peaks = []
    for plan in PLANS:
        pass_ = Differentiation(plan, shape, prompt, level)
        peaks.append(peak_bytes(lambda pass_=pass_: pass_.ours(model)))
    return Row(name, plans.forward_bytes(model.model, shape, {}), tuple(peaks))


def unet(kind: Kind, size: int, weights: torch.dtype) -> Row:
    """A UNet of full size."""
    compute = None if weights is torch.float32 else torch.float32
    model = kind.load(weights, compute)
    shape = (1, 4, size // 8, size // 8)
    return row(f"{kind.name}, {size} x {size}", model, shape, kind.prompt(2))


def flux(size: int) -> Row:
    """Flux, from what one more block of each kind adds."""

    def part(double: int, single: int) -> Row:
        config = {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": 2,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": double,
            "depth_single_blocks": single,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
        }
        model = Kind("Flux", config, "Flux", 768).load(torch.bfloat16, torch.float32)
        prompt = conditioning(
            random_tensor((1, 256, 4096), 2), pooled_output=random_tensor((1, 768), 3), guidance=3.5
        )
        return row("", model, (1, 16, size // 8, size // 8), prompt, (1.0, 0.7))

    one, more_double, more_single = part(1, 1), part(2, 1), part(1, 2)
    peaks = [
        first + (FLUX_BLOCKS[0] - 1) * (double - first) + (FLUX_BLOCKS[1] - 1) * (single - first)
        for first, double, single in zip(
            one.peaks, more_double.peaks, more_single.peaks, strict=True
        )
    ]
    return Row(f"Flux, {size} x {size} (added up)", one.expected, tuple(peaks))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the small ones alone")
    options = parser.parse_args()
    boot()
    rows = [
        lambda: row("test network, 64 x 64", parity_network("two"), (1, 4, 8, 8), None),
        lambda: unet(SD_15, 256, torch.float32),
    ]
    if not options.quick:
        # Half precision weights, or SDXL would take 10 GB.
        rows += [
            lambda: unet(SD_15, 512, torch.float32),
            lambda: unet(SD_XL, 512, torch.float16),
            lambda: flux(512),
        ]
    print("| network | host's forward pass, MB | keep, MB | ratio | blocks, MB | ratio |")
    print("|---|---|---|---|---|---|")
    with torch.inference_mode():
        for make in rows:
            print(make(), flush=True)


if __name__ == "__main__":
    main()
