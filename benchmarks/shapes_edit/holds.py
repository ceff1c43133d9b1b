"""What keeps the picture: factories that make a method's guidance for a bench.

Each answers with everything that NMG Sample needs for it, and with what making that cost. What
several methods share (an inversion, a mask, optimised embeddings) is made once for a bench.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from demo_edits import Bench

STEPS = 50
SCHEDULE = "official-masactrl"
GRADIENT_SCALE = 5000.0
# Figures of a cost; what the clock says is not among them, for it depends on the other process.
COUNTS = ("forward_calls", "forward_rows", "backward_rows", "core_seconds")


@dataclass(frozen=True)
class Held:
    """A guidance with the trajectory it goes along, and what NMG Sample gets beside them.

    Attributes:
        cost: of what was made for it beyond a plain inversion, by the names in `COUNTS`.
    """

    guidance: Any
    trajectory: Any
    mask: Any = None
    cost: dict[str, float] = field(default_factory=dict)


def nmg(
    bench: Bench,
    scale: float,
    refine: int = 0,
    region: dict[str, Any] | None = None,
    mode: str = "fused",
    gradient: str = "direct",
    gradient_scale: float = GRADIENT_SCALE,
    **choices: Any,
) -> Held:
    """Noise Map Guidance; scale 0 is DDIM with text guidance.

    Args:
        bench: with the edit.
        scale: `noise_map_scale`.
        refine: `refine_iterations` of the inversion.
        region: settings of NMG Edit Region, whose mask goes to NMG Sample; or None.
        mode, gradient, gradient_scale, choices: of NMG Guidance.
    """
    guidance = bench.nodes.NMGGuidance.execute(
        mode, gradient, "l1", "auto", scale, gradient_scale, 0.0, 1.0, **choices
    ).args[0]
    trajectory, cost = inverted(bench, refine)
    if region is None:
        return Held(guidance, trajectory, None, cost)
    (mask,), found = _region(bench, trajectory, region)
    return Held(guidance, trajectory, mask, _sum(cost, found))


def negative_prompt(bench: Bench, interpolation: float = 0.0) -> Held:
    """Negative-Prompt Inversion."""
    made = _node("methods.negative_prompt", "NMGNegativePrompt").execute(interpolation)
    return Held(made.args[0], inverted(bench)[0])


def proximal(bench: Bench, threshold: str = "soft", quantile: float = 0.4, **choices: Any) -> Held:
    """Proximal guidance; the published quantile 0.7 counts the source branch in and is 0.4 here."""
    made = _node("methods.proximal", "NMGProximal").execute(threshold, quantile, **choices)
    return Held(made.args[0], inverted(bench)[0])


def direct_inversion(bench: Bench) -> Held:
    """Direct Inversion: the source branch is the trajectory."""
    made = _node("methods.direct_inversion", "NMGDirectInversion").execute(1.0)
    return Held(made.args[0], inverted(bench)[0])


def null_text(bench: Bench, text_scale: float) -> Held:
    """Null-Text Inversion at the published 10 updates and learning rate 0.01."""
    trajectory, _ = inverted(bench)
    node = _node("methods.null_text", "NMGNullText")
    (guidance, optimised), cost = _once(
        bench,
        ("null text", text_scale),
        lambda: node.execute(bench.model, trajectory, bench.empty_prompt, text_scale, 10, 0.01),
    )
    return Held(guidance, optimised, None, cost)


def edit_friendly(
    bench: Bench, steps: int = 100, skip: int = 36, source_scale: float = 3.5
) -> Held:
    """Edit-Friendly Inversion; its cost is all of its own inversion."""
    node = _node("methods.edit_friendly", "NMGEditFriendly")
    prompts = bench.source_prompts, bench.empty_prompt
    (guidance, trajectory), cost = _once(
        bench,
        ("edit friendly", steps, skip, source_scale),
        lambda: node.execute(
            bench.model, *prompts, bench.latent, steps, SCHEDULE, source_scale, skip, 0
        ),
    )
    return Held(guidance, trajectory, None, cost)


def inverted(bench: Bench, refine: int = 0) -> tuple[Any, dict[str, float]]:
    """The trajectory of NMG Invert, and what refining it cost."""
    node = bench.nodes.NMGInvert
    arguments = (bench.model, bench.source_prompts, bench.latent, STEPS, SCHEDULE)
    (trajectory, _), cost = _once(
        bench,
        ("inverted", refine),
        lambda: node.execute(*arguments, refine_iterations=refine),
    )
    return trajectory, cost if refine else {}


def _region(bench: Bench, trajectory: Any, settings: dict[str, Any]) -> Any:
    node = _node("looks.edit_region", "NMGEditRegion")
    return _once(
        bench,
        ("region", tuple(settings.items())),
        lambda: node.execute(bench.model, trajectory, bench.target_prompts, **settings),
    )


def _node(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"nmg_pack.nodes.{module}"), name)


def _once(bench: Bench, key: Any, run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a node gives and its cost, the same for everyone who asks by that key."""
    if key not in bench.made:
        # What the processor did for it: unlike the time on the clock, the same on a busy machine.
        started = time.process_time()
        with torch.inference_mode():
            result = run()
        cost = {**result.ui["nmg"][0], "core_seconds": time.process_time() - started}
        bench.made[key] = result.args, {name: cost[name] for name in COUNTS}
    return bench.made[key]


def _sum(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in COUNTS}
