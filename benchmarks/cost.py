"""How often each mode, method and editor asks the model: counted, not timed.

    python tools/run.py benchmarks/cost.py

One picture of the demo model goes through the nodes with a few steps, and what they report as their
cost is divided by the steps. Writes the tables of docs/cost.md to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from demo_edits import Bench, draw_edits, scenes

STEPS = 3  # of every run here
RUN = 50  # of the run that the tables tell the cost of
LEVELS = 5  # that NMG Edit Region looks at in it
INNER = 10  # steps per step of Null-Text Inversion, as published
COUNTED = ("forward_calls", "forward_rows", "backward_rows")


class Cost(NamedTuple):
    """Evaluations of the network; a row is one prompt for all pictures of the batch."""

    calls: int
    rows: int
    backward_rows: int


class Line(NamedTuple):
    """One way of running a node, and what it costs."""

    name: str
    cost: Cost
    steps: int = STEPS  # that the model was asked in
    usual: int = RUN  # that it is asked in where 50 are set

    @property
    def per_step(self) -> Cost:
        """Raises ValueError if the steps do not cost the same."""
        shares = [divmod(number, self.steps) for number in self.cost]
        if any(left for _, left in shares):
            raise ValueError(f"{self.name}: {self.cost} is no multiple of {self.steps} steps")
        return Cost(*(share for share, _ in shares))


class Ways:
    """The nodes on one edit of one picture."""

    def __init__(self) -> None:
        self.bench = Bench(draw_edits(1, seed=1))
        self.nodes = self.bench.nodes

    def inversion(self, name: str, **options: Any) -> Line:
        """NMG Invert."""
        return Line(name, self._invert(STEPS, **options)[1])

    def sampling(
        self,
        name: str,
        guidance: Any = None,
        editor: Any = None,
        text_scale: float = 5.0,
        trajectory: Any = None,
        mask: torch.Tensor | None = None,
    ) -> Line:
        """NMG Sample."""
        trajectory = trajectory or self.trajectory
        output = self._execute(
            self.nodes.NMGSample,
            self.bench.model,
            trajectory,
            self.bench.target_prompts,
            self.bench.empty_prompt,
            text_scale,
            0.0,
            0.0,
            "fused",
            guidance=guidance or self.plain,
            editor=editor,
            mask=mask,
        )
        left_out = len(trajectory.schedule.query_levels) - len(trajectory.schedule.descent())
        return Line(name, cost_of(output), STEPS - left_out, RUN - left_out)

    def null_text(self) -> tuple[Line, Any, Any]:
        """Null-Text Inversion with every inner step taken, its guidance and trajectory."""
        output = self._execute(
            self.nodes.NMGNullText,
            self.bench.model,
            self.trajectory,
            self.bench.empty_prompt,
            5.0,
            INNER,
            0.01,
            0.0,
        )
        name = f"**Null-Text Inversion**, {INNER} inner steps"
        return Line(name, cost_of(output)), *output.args

    def edit_friendly(self) -> tuple[Line, Any, Any]:
        """Edit-Friendly Inversion, its guidance and trajectory."""
        output = self._execute(
            self.nodes.NMGEditFriendly,
            self.bench.model,
            self.bench.source_prompts,
            self.bench.empty_prompt,
            self.bench.latent,
            STEPS,
            "official-masactrl",
            3.5,
            0,
            0,
        )
        # Of its last step nothing is asked: the picture is known.
        line = Line("**Edit-Friendly Inversion**", cost_of(output), STEPS - 1, RUN - 1)
        return line, *output.args

    def region(self) -> Line:
        """NMG Edit Region; a step is a level."""
        bench = self.bench
        output = self._execute(
            self.nodes.NMGEditRegion,
            bench.model,
            self.trajectory,
            bench.target_prompts,
            0.0,
            0,
            levels=1,
        )
        return Line(f"**NMG Edit Region**, {LEVELS} levels", cost_of(output), 1, LEVELS)

    def check(self) -> Line:
        """NMG Reconstruction Check with the default method."""
        bench = self.bench
        output = self._execute(
            self.nodes.NMGReconstructionCheck,
            *(bench.model, self.trajectory, bench.empty_prompt, bench.vae, 5.0, 1.5, 5000.0),
            "fused",
        )
        return Line("**NMG Reconstruction Check**, fused, direct", cost_of(output))

    def noise_map(self, mode: str, gradient: str, scale: float = 1.0, **options: Any) -> Any:
        """NMG Guidance."""
        node = self.nodes.NMGGuidance
        start, end = options.pop("start", 0.0), options.pop("end", 1.0)
        choices = mode, gradient, "l1", "auto", scale, 5000.0, start, end
        return self._execute(node, *choices, **options).args[0]

    def method(self, name: str, *settings: Any, **options: Any) -> Any:
        """Another method, or an editor, by the id of its node."""
        return self._execute(getattr(self.nodes, name), *settings, **options).args[0]

    def prompt_to_prompt(self) -> Any:
        """Prompt-to-Prompt in every step."""
        edit = self.bench.edits[0]
        return self.method(
            "NMGPromptToPrompt",
            clip=self.bench.clip,
            source_prompt=scenes.caption(edit.source),
            target_prompt=scenes.caption(edit.target),
            mode="auto",
            cross_replace=1.0,
            self_replace=1.0,
            blend_words="",
            reweight="",
        )

    @cached_property
    def plain(self) -> Any:
        return self.method("NMGPlainGuidance")

    @cached_property
    def trajectory(self) -> Any:
        return self._invert(STEPS)[0]

    @cached_property
    def official(self) -> Any:
        """One of the official schedule, which samples one step fewer than it inverts."""
        return self._invert(STEPS, schedule="official")[0]

    def _invert(
        self, steps: int, schedule: str = "official-masactrl", **options: Any
    ) -> tuple[Any, Cost]:
        bench, node = self.bench, self.nodes.NMGInvert
        given = bench.model, bench.source_prompts, bench.latent, steps, schedule
        output = self._execute(node, *given, **options)
        return output.args[0], cost_of(output)

    def _execute(self, node: Any, *arguments: Any, **options: Any) -> Any:
        with torch.inference_mode():
            return node.execute(*arguments, **options)


def cost_of(output: Any) -> Cost:
    """What a node reports."""
    return Cost(*(output.ui["nmg"][0][name] for name in COUNTED))


def inversions(ways: Ways) -> list[Line]:
    """Everything that makes a trajectory, or looks at one."""
    return [
        ways.inversion("**NMG Invert**"),
        ways.inversion("**NMG Invert**, refine_iterations 2", refine_iterations=2),
        ways.null_text()[0],
        ways.edit_friendly()[0],
        ways.region(),
        ways.check(),
    ]


def methods(ways: Ways) -> list[Line]:
    """NMG Sample by its methods, without an editor."""
    _, null_text, optimised = ways.null_text()
    _, edit_friendly, drawn = ways.edit_friendly()
    proximal = ways.method("NMGProximal", "soft", 0.7)
    return [
        ways.sampling("**DDIM + CFG**"),
        ways.sampling("**NMG**, fused, direct", ways.noise_map("fused", "direct")),
        ways.sampling("**NMG**, fused, full", ways.noise_map("fused", "full")),
        ways.sampling("**NMG**, official, direct", ways.noise_map("official", "direct")),
        ways.sampling("**NMG**, official, full", ways.noise_map("official", "full")),
        ways.sampling("**Null-Text Inversion**", null_text, trajectory=optimised),
        ways.sampling("**Negative-Prompt Inversion**", ways.method("NMGNegativePrompt", 0.0)),
        ways.sampling("**Proximal Guidance**", proximal),
        ways.sampling("**Edit-Friendly Inversion**", edit_friendly, trajectory=drawn),
    ]


def editors(ways: Ways) -> list[Line]:
    """NMG Sample with an editor in every step: one target beside the source."""
    p2p = ways.prompt_to_prompt()
    pinned = ways.method("NMGDirectInversion", 1.0)
    fused, full = (ways.noise_map("fused", gradient) for gradient in ("direct", "full"))
    official = ways.noise_map("official", "full")
    together, apart = (ways.method("NMGPix2PixZero", 0.1, h) for h in ("together", "separate"))
    return [
        ways.sampling("**Prompt-to-Prompt**, DDIM + CFG", None, p2p),
        ways.sampling("**Prompt-to-Prompt**, Direct Inversion", pinned, p2p),
        ways.sampling("**Prompt-to-Prompt**, NMG fused, direct", fused, p2p),
        ways.sampling("**Prompt-to-Prompt**, NMG fused, full", full, p2p),
        ways.sampling("**Prompt-to-Prompt**, NMG official, full", official, p2p),
        ways.sampling("**MasaCtrl**, DDIM + CFG", None, ways.method("NMGMasaCtrl", 0, 0)),
        ways.sampling("**pix2pix-zero**, halves together", None, together),
        ways.sampling("**pix2pix-zero**, halves separate", None, apart),
    ]


def nothing_to_do(ways: Ways) -> list[Line]:
    """Settings under which a part of a method has no effect."""
    fused, full, official = (("fused", "direct"), ("fused", "full"), ("official", "full"))
    white = torch.ones(1, 16, 16)
    off = ways.method("NMGProximal", "soft", 0.0, 0.0, 0.0)

    def none(kind: tuple[str, str], **options: Any) -> Any:
        return ways.noise_map(*kind, **options)

    return [
        ways.sampling("text_scale 1, DDIM + CFG", text_scale=1.0),
        ways.sampling("text_scale 1, NMG fused, direct", none(fused), text_scale=1.0),
        ways.sampling("text_scale 1, NMG fused, full", none(full), text_scale=1.0),
        ways.sampling("text_scale 1, NMG official, full", none(official), text_scale=1.0),
        ways.sampling(
            "text_scale 1, Negative-Prompt Inversion",
            ways.method("NMGNegativePrompt", 0.0),
            text_scale=1.0,
        ),
        ways.sampling("text_scale 1, Proximal Guidance without threshold and pull", off, None, 1.0),
        ways.sampling("noise_map_scale 0, NMG fused, full", none(full, scale=0.0)),
        ways.sampling("noise_map_scale 0, NMG official, full", none(official, scale=0.0)),
        ways.sampling(
            "weight 0 under all of the mask, fused, full", none(full, inside=0.0), mask=white
        ),
        ways.sampling(
            "weight 0 under all of the mask, official, full", none(official, inside=0.0), mask=white
        ),
        ways.sampling("outside start and end, NMG official, full", none(official, start=0.99)),
        ways.sampling(
            "schedule official without its last step, NMG official, full",
            none(official),
            trajectory=ways.official,
        ),
        ways.sampling("attention_scale 0, pix2pix-zero", None, ways.method("NMGPix2PixZero", 0.0)),
    ]


TABLES: dict[str, Callable[[Ways], list[Line]]] = {
    "inversion": inversions,
    "method": methods,
    "editor, method": editors,
    "setting": nothing_to_do,
}


def table(title: str, lines: list[Line]) -> str:
    """Markdown: what a step costs, and what a run costs."""
    columns = f"| {title} | calls per step | rows | backward rows | calls per run | rows |"
    rows = [f"{columns} backward rows |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        numbers = [*line.per_step, *(line.usual * number for number in line.per_step)]
        rows.append(f"| {line.name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows)


def main() -> None:
    ways = Ways()
    for title, lines in TABLES.items():
        sys.stdout.write(f"{table(title, lines(ways))}\n\n")


if __name__ == "__main__":
    main()
