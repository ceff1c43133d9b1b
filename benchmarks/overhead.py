"""What the pack costs over the bare model calls that it makes.

    python tools/run.py benchmarks/overhead.py
    python tools/run.py benchmarks/overhead.py --network quarter --steps 5

For each mode pictures are sampled by NMG Sample, and the very same number of model calls, of the
same rows and with the same backward passes, is made in a bare loop, in the same process, in turn.
The ratio is what everything else costs: conditions, steps, guidance, callbacks, making layers
differentiable. The network is that of the demo model, so small that this is the worst case; or one
of a quarter of Stable Diffusion 1.5's size, with random weights. Writes a table to standard output.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from demo_edits import Bench, draw_edits, root, scenes
from editor_memory import SD15

from tools.host_process import boot, node_classes

sys.path.insert(0, str(root / "tests"))

from host_models import make_patcher, random_latent, random_prompt  # noqa: E402

MODES = (
    ("DDIM + CFG", "fused", "direct", 0.0),
    ("NMG fused, direct", "fused", "direct", 1.0),
    ("NMG fused, full", "fused", "full", 1.0),
    ("NMG official, direct", "official", "direct", 10.0),
    ("NMG official, full", "official", "full", 10.0),
)
# With NMG fused, direct on the source branch: (cross_replace, self_replace), or None.
EDITORS = (
    ("Prompt-to-Prompt 0 / 0", (0.0, 0.0)),
    ("Prompt-to-Prompt 0.8 / 0.5", (0.8, 0.5)),
    ("MasaCtrl", None),
)


class Demo(Bench):
    """The demo model on its own pictures."""

    def load(self) -> Any:
        """The model once more."""
        return self.nodes.NMGDemoModel.execute().args[0]


class Quarter:
    """Half of the channels of Stable Diffusion 1.5, 256 x 256 pixels, random weights and prompts.

    Args:
        pictures: how many at once.
    """

    def __init__(self, pictures: int) -> None:
        boot()
        self.nodes = node_classes()
        with torch.inference_mode():
            self.model = self.load()
        self.latent = random_latent((pictures, 4, 32, 32))
        self.source_prompts, self.target_prompts, self.empty_prompt = (
            random_prompt(seed, width=SD15["context_dim"], tokens=77) for seed in range(3)
        )

    def load(self) -> Any:
        """The model; the same at every call."""
        patcher = make_patcher({**SD15, "model_channels": SD15["model_channels"] // 2})
        with torch.no_grad():
            # As with trained weights, a step stays small.
            patcher.model.diffusion_model.out[-1].weight.mul_(0.1)
        return patcher

    def invert(self, steps: int, schedule: str) -> Any:
        """The trajectory of all pictures."""
        with torch.inference_mode():
            given = self.model, self.source_prompts, self.latent, steps, schedule
            return self.nodes.NMGInvert.execute(*given).args[0]


class BareCalls:
    """The host's `apply_model` on fixed tensors, weights ordinary tensors, nothing around it."""

    def __init__(self, bench: Demo | Quarter) -> None:
        gradient = importlib.import_module("nmg_pack.nodes.host.gradient.attention")
        # A second model, loaded outside inference mode: plain autograd works on it.
        self.patcher = bench.load()
        importlib.import_module("comfy.model_management").load_models_gpu([self.patcher])
        # The same attention as the pack's gradient pass.
        self.options = {"optimized_attention_override": gradient.attention_with_backward(None)}
        batch, *shape = bench.latent["samples"].shape
        self.context = bench.source_prompts[0][0].clone().float().expand(batch, -1, -1)
        self.x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        self.sigma = torch.full((batch,), 1.6)

    def forward(self, rows: int) -> None:
        """One call of `rows` prompts for the whole batch."""
        with torch.inference_mode():
            self._call(self.x, rows, {})

    def forward_backward(self) -> None:
        """One call of one prompt and its gradient in the latent."""
        x = self.x.clone().requires_grad_()
        out = self._call(x, 1, self.options)
        torch.autograd.grad(out, x, self.x)

    def _call(self, x: torch.Tensor, rows: int, options: dict[str, Any]) -> torch.Tensor:
        return self.patcher.model.apply_model(
            torch.cat([x] * rows),
            torch.cat([self.sigma] * rows),
            c_crossattn=torch.cat([self.context] * rows),
            transformer_options=dict(options),
        )


def bare_run(calls: BareCalls, cost: dict[str, Any]) -> None:
    """The calls of one run: each step's backward pass, then what is left as forward calls."""
    for _ in range(cost["backward_rows"]):
        calls.forward_backward()
    left_calls = cost["forward_calls"] - cost["backward_rows"]
    rows, larger = divmod(cost["forward_rows"] - cost["backward_rows"], left_calls)
    for index in range(left_calls):
        calls.forward(rows + (index < larger))


def seconds_of(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", choices=("demo", "quarter"), default="demo")
    parser.add_argument("--pictures", type=int, help="4 for the demo model, otherwise 1")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.network == "demo":
        bench = Demo(draw_edits(arguments.pictures or 4, seed=1))
    else:
        bench = Quarter(arguments.pictures or 1)
    trajectory = bench.invert(arguments.steps, "official")
    calls = BareCalls(bench)
    print("| mode | forward calls | rows | backward | pack s | bare s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, *choices in MODES:
        run = sampler(bench, trajectory, guidance(bench, *choices))
        report(name, run, calls, arguments.repeats)
    if isinstance(bench, Demo):
        report_editors(bench, trajectory, calls, arguments.repeats)


def report_editors(bench: Demo, trajectory: Any, calls: BareCalls, repeats: int) -> None:
    """Prints the lines of the editors, and what one of them takes that does nothing."""
    held = guidance(bench, "fused", "direct", 1.0)
    for name, schedules in EDITORS:
        run = sampler(bench, trajectory, held, editor(bench, schedules))
        report(name, run, calls, repeats)
    off = sampler(bench, trajectory, held, editor(bench, (0.0, 0.0)))
    none = sampler(bench, trajectory, held, targets=2)
    ratios = [off()["seconds"] / none()["seconds"] for _ in range(1 + 2 * repeats)][1:]
    print("\nPrompt-to-Prompt 0 / 0 over no editor and two targets, the same rows:", end=" ")
    print(f"{statistics.median(ratios):.3f}")


def report(name: str, run: Callable[[], dict[str, Any]], calls: BareCalls, repeats: int) -> None:
    """Prints a line of the table: medians over `repeats` pairs of runs, pack and bare in turn."""
    cost = run()
    bare_run(calls, cost)
    pairs = [(run()["seconds"], seconds_of(lambda: bare_run(calls, cost))) for _ in range(repeats)]
    pack, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    counted = [cost[key] for key in ("forward_calls", "forward_rows", "backward_rows")]
    print(f"| {name} | {' | '.join(map(str, counted))} | {pack:.2f} | {bare:.2f} | {ratio:.3f} |")


def guidance(bench: Demo | Quarter, mode: str, gradient: str, scale: float) -> Any:
    node = bench.nodes.NMGGuidance
    return node.execute(mode, gradient, "l1", "auto", scale, 5000.0, 0.0, 1.0).args[0]


def editor(bench: Demo, schedules: tuple[float, float] | None) -> Any:
    """An editor for the prompts of the first picture; what it costs is the same for any."""
    if schedules is None:
        return bench.nodes.NMGMasaCtrl.execute(4, 10).args[0]
    cross_replace, self_replace = schedules
    return bench.nodes.NMGPromptToPrompt.execute(
        clip=bench.clip,
        source_prompt=scenes.caption(bench.edits[0].source),
        target_prompt=scenes.caption(bench.edits[0].target),
        mode="auto",
        cross_replace=cross_replace,
        self_replace=self_replace,
        blend_words="",
        reweight="",
    ).args[0]


def sampler(
    bench: Demo | Quarter, trajectory: Any, guidance: Any, editor: Any = None, targets: int = 1
) -> Callable[[], dict[str, Any]]:
    """One run of NMG Sample, without the VAE, as a function returning its cost."""
    ((rows, options),) = bench.target_prompts
    prompts = [[rows.repeat(targets, 1, 1), options]]

    def run() -> dict[str, Any]:
        with torch.inference_mode():
            result = bench.nodes.NMGSample.execute(
                bench.model,
                trajectory,
                prompts,
                bench.empty_prompt,
                5.0,
                0.0,
                0.0,
                "fused",
                guidance=guidance,
                editor=editor,
            )
        return result.ui["nmg"][0]

    return run


if __name__ == "__main__":
    main()
