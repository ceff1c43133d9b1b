"""Peak memory and time of every way to edit, on models of full size, on this machine's card.

    python tools/run.py benchmarks/gpu.py
    python tools/run.py benchmarks/gpu.py --cpu
    python tools/run.py benchmarks/gpu.py --count --minutes 20

One picture goes through NMG Sample in a real ComfyUI. With CUDA: SD 1.5 at 512 x 512 and SDXL at
1024 x 1024, fp16, four steps; the peak is what PyTorch had allocated, weights included. With --cpu:
SD 1.5 at 256 x 256, float32, two steps, PyTorch's attention as on a card; the peak is what its
profiler counted above what was there when sampling began, weights not included. With --count: the
card's pictures and models on the CPU, one step, fp16 weights that are cast to float32 one at a
time. Of what was counted there half is taken, as fp16 numbers are half as long, but all of it for
Prompt-to-Prompt, whose maps are float32 everywhere; then the weights are added. So much do tensors
take on a card; what its libraries take beside them is not in it. Weights are random. After so many
minutes no further way is begun. Writes gpu.json and gpu.md into the folder given by --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root / "tests"), str(root)]

from editor_memory import SOURCE, TARGET, clip  # noqa: E402
from full_size import SD_15, SD_XL, Kind  # noqa: E402
from host_models import random_latent  # noqa: E402
from memory import peak_bytes  # noqa: E402

from tools.host_process import boot, node_classes  # noqa: E402

PLANS = ("keep", "blocks")


@dataclass(frozen=True)
class Scene:
    """What is edited, and where."""

    kind: Kind
    size: int
    dtype: torch.dtype
    steps: int
    # What the weights are cast to, if to anything.
    compute: torch.dtype | None = None
    # GB of all ways, of those with Prompt-to-Prompt: what a card should suffice with.
    goals: tuple[float, float] | None = None

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.kind.name}, {self.size} x {self.size}, {dtype}"


ON_CARD = (
    Scene(SD_15, 512, torch.float16, 4, goals=(4, 5)),
    Scene(SD_XL, 1024, torch.float16, 4, goals=(12, 12)),
)
ON_CPU = (Scene(SD_15, 256, torch.float32, 2),)
COUNTED = tuple(replace(scene, compute=torch.float32, steps=1) for scene in ON_CARD)


@dataclass(frozen=True)
class Measured:
    """One way: its peak in GB (10^9 bytes), seconds per step, and what the peak should be."""

    scene: str
    way: str
    plan: str
    peak_gb: float
    seconds_per_step: float
    goal_gb: float | None


class Ways:
    """The ways to edit one picture."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.nodes = node_classes()
        self.model = scene.kind.load(scene.dtype, scene.compute)
        self.source, self.target, self.negative = map(scene.kind.prompt, range(3))
        cells = scene.size // 8
        latent = random_latent((1, 4, cells, cells))
        self.trajectory = self.nodes.NMGInvert.execute(
            self.model, self.source, latent, scene.steps, "official-masactrl"
        ).args[0]

    def all(self) -> list[tuple[str, str, Callable[[], Any]]]:
        """(name, plan, run) of each, those that matter most first."""
        full, direct = self.noise_maps("fused", "full"), self.noise_maps("fused", "direct")
        official = self.noise_maps("official", "full")
        ways = [
            ("DDIM + CFG", "", self.sample(self.model, scale=0.0)),
            ("NMG fused, direct", "", self.sample(self.model, guidance=direct)),
        ]
        gradients = {
            "NMG fused, full": {"guidance": full},
            "NMG official, full": {"guidance": official},
        }
        if self.scene.kind is SD_15:
            editor = self.nodes.NMGPromptToPrompt.execute(
                clip=clip(),
                source_prompt=SOURCE,
                target_prompt=TARGET,
                mode="auto",
                cross_replace=0.8,
                self_replace=0.5,
                blend_words="cat, tiger",
                reweight="",
            ).args[0]
            gradients["Prompt-to-Prompt + NMG fused, full"] = {"guidance": full, "editor": editor}
        for name, options in gradients.items():
            ways += [(name, plan, self.sample(self.with_plan(plan), **options)) for plan in PLANS]
        ways += [("Null-Text, one update", plan, self.null_text(plan)) for plan in PLANS]
        return ways

    def noise_maps(self, mode: str, gradient: str) -> Any:
        """Noise Map Guidance, its strength at its default."""
        return self.nodes.NMGGuidance.execute(
            mode, gradient, "l1", "auto", 1.0, 2000.0, 0.0, 1.0
        ).args[0]

    def with_plan(self, plan: str) -> Any:
        return self.nodes.NMGGradientMemory.execute(self.model, plan).args[0]

    def sample(self, model: Any, scale: float = 1.0, **options: Any) -> Callable[[], Any]:
        """A run of NMG Sample."""
        inputs = self.trajectory, self.target, self.negative, 7.5, scale, 2000.0, "fused"
        return lambda: self.nodes.NMGSample.execute(model, *inputs, **options)

    def null_text(self, plan: str) -> Callable[[], Any]:
        """The optimisation alone."""
        model = self.with_plan(plan)
        inputs = self.trajectory, self.negative, 7.5, 1, 0.01
        return lambda: self.nodes.NMGNullText.execute(model, *inputs)


def measured(run: Callable[[], Any], steps: int, on_card: bool) -> tuple[float, float]:
    """(peak in GB, seconds per step) of a run; on the CPU without the weights."""
    if on_card:
        run()  # kernels are chosen and loaded in the first
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e9, (time.perf_counter() - started) / steps
    spent: list[float] = []

    def timed() -> None:
        started = time.perf_counter()
        run()
        spent.append(time.perf_counter() - started)

    return peak_bytes(timed) / 1e9, spent[0] / steps


def measure(scenes: tuple[Scene, ...], on_card: bool, until: float) -> list[Measured]:
    """All ways of all scenes that can be begun before the clock says `until`."""
    results = []
    for scene in scenes:
        ways = Ways(scene)
        for name, plan, run in ways.all():
            if time.perf_counter() > until:
                return results
            peak, seconds = measured(run, scene.steps, on_card)
            maps = "Prompt-to-Prompt" in name
            if scene in COUNTED:
                peak = (peak if maps else peak / 2) + ways.model.model_size() / 1e9
            goal = (scene.goals or (None, None))[maps]
            found = Measured(str(scene), name, plan, round(peak, 2), round(seconds, 3), goal)
            results.append(found)
            print(_line(found), flush=True)
    return results


def _line(one: Measured) -> str:
    goal = "" if one.goal_gb is None else one.goal_gb
    return f"| {one.way} | {one.plan} | {one.peak_gb:.2f} | {goal} | {one.seconds_per_step:.2f} |"


def table(results: list[Measured], where: str) -> str:
    """Markdown."""
    lines = [f"Measured on: {where}"]
    for scene in dict.fromkeys(one.scene for one in results):
        lines += ["", f"{scene}:", ""]
        lines += ["| way | plan | peak GB | goal GB | seconds per step |", "|---|---|---|---|---|"]
        lines += [_line(one) for one in results if one.scene == scene]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="even where there is a card")
    parser.add_argument("--count", action="store_true", help="what a card would hold, on the CPU")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--out", type=Path, default=root / "output" / "gpu")
    options = parser.parse_args()
    started = time.perf_counter()
    on_card = torch.cuda.is_available() and not (options.cpu or options.count)
    scenes = ON_CARD if on_card else COUNTED if options.count else ON_CPU
    # The attention that the host takes on a card; for a CPU it takes another, by the free memory.
    boot(args=() if on_card else ("--cpu", "--use-pytorch-cross-attention"))
    with torch.inference_mode():
        results = measure(scenes, on_card, started + 60 * options.minutes)
    where = torch.cuda.get_device_name() if on_card else f"CPU, {torch.get_num_threads()} threads"
    options.out.mkdir(parents=True, exist_ok=True)
    written = {"where": where, "torch": torch.__version__, "results": [*map(asdict, results)]}
    (options.out / "gpu.json").write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    (options.out / "gpu.md").write_text(table(results, where), "utf-8")
    print(f"wrote {options.out / 'gpu.json'} and gpu.md")


if __name__ == "__main__":
    main()
