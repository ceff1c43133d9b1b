"""What an editor allocates beyond plain text guidance of the same rows, at full SD 1.5 size.

    python tools/run.py benchmarks/editor_memory.py
    python tools/run.py benchmarks/editor_memory.py --size 256 --steps 3

Random weights (the sizes are what counts), float32 on the CPU, one picture. PyTorch's profiler
reports every allocation; the peak is counted from what is live when sampling starts, so weights do
not count. Plain text guidance samples two pictures at once: as many rows as source and target.
Writes a table to standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root / "tests"), str(root)]

from host_models import (  # noqa: E402
    conditioning,
    make_patcher,
    random_latent,
    random_tensor,
    tokenizer_alone,
)
from memory import peak_bytes  # noqa: E402

from tools.host_process import boot, node_classes  # noqa: E402

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "legacy": False,
    "use_linear_in_transformer": False,
}
SOURCE, TARGET = "a cat sitting on a table", "a tiger sitting on a table"


def clip() -> Any:
    """The host's tokenizer alone: embeddings are random numbers here."""
    return tokenizer_alone("comfy.sd1_clip", "SD1Tokenizer")


class Scene:
    """A model, a trajectory of one picture and of two, and NMG Sample on them."""

    def __init__(self, size: int, steps: int) -> None:
        boot()
        self.nodes = node_classes()
        with torch.inference_mode():
            self.model = make_patcher(SD15)
            self.prompts = [conditioning(random_tensor((1, 77, 768), seed)) for seed in range(3)]
            self.trajectories = {
                pictures: self.nodes.NMGInvert.execute(
                    self.model,
                    self.prompts[0],
                    random_latent((pictures, 4, size // 8, size // 8)),
                    steps,
                    "official-masactrl",
                ).args[0]
                for pictures in (1, 2)
            }

    def sample(self, pictures: int, editor: Any = None) -> Callable[[], Any]:
        """A run of NMG Sample without noise map guidance."""

        def run() -> Any:
            with torch.inference_mode():
                return self.nodes.NMGSample.execute(
                    self.model,
                    self.trajectories[pictures],
                    self.prompts[1],
                    self.prompts[2],
                    7.5,
                    0.0,
                    0.0,
                    "fused",
                    editor=editor,
                )

        return run

    def prompt_to_prompt(self, blend_words: str) -> Any:
        """The editor at its defaults."""
        return self.nodes.NMGPromptToPrompt.execute(
            clip=clip(),
            source_prompt=SOURCE,
            target_prompt=TARGET,
            mode="auto",
            cross_replace=0.8,
            self_replace=0.5,
            blend_words=blend_words,
            reweight="",
        ).args[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    scene = Scene(arguments.size, arguments.steps)
    runs = {
        "text guidance, two pictures": scene.sample(2),
        "Prompt-to-Prompt": scene.sample(1, scene.prompt_to_prompt("")),
        "Prompt-to-Prompt, local blend": scene.sample(1, scene.prompt_to_prompt("cat, tiger")),
        "MasaCtrl": scene.sample(1, scene.nodes.NMGMasaCtrl.execute(0, 10).args[0]),
    }
    print("| run | peak MB | ratio |")
    print("|---|---|---|")
    first = None
    for name, run in runs.items():
        peak = peak_bytes(run)
        first = first or peak
        print(f"| {name} | {peak / 2**20:.0f} | {peak / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
