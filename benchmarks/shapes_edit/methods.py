"""The methods under measurement: a table to which a method is added by one line.

A method is a guidance, made for a bench, and an editor or none, made for an edit on it. Both are
partials of the factories here, so that their settings can be read off and recorded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from demo_edits import Bench, Edit, scenes

STEPS = 50
SCHEDULE = "official-masactrl"
GRADIENT_SCALE = 5000.0
TEXT_SCALES = (3.0, 7.5)

# What --tune found best on the tuning split, per kind of edit; see docs/benchmark.md.
TUNED_PROMPT_TO_PROMPT = {
    "colour": {"cross_replace": 1.0, "self_replace": 0.8},
    "shape": {"cross_replace": 0.4, "self_replace": 0.2},
    "background": {"cross_replace": 1.0, "self_replace": 0.8},
}
TUNED_BLEND = {
    "colour": {**TUNED_PROMPT_TO_PROMPT["colour"], "blend_threshold": 0.6},
    "shape": {**TUNED_PROMPT_TO_PROMPT["shape"], "blend_threshold": 0.7},
    "background": {**TUNED_PROMPT_TO_PROMPT["background"], "blend_threshold": 0.3},
}
TUNED_MASACTRL = {
    "colour": {"start_step": 30, "start_layer": 0},
    "shape": {"start_step": 20, "start_layer": 10},
    "background": {"start_step": 30, "start_layer": 0},
}


def nmg(bench: Bench, scale: float) -> Any:
    """Noise Map Guidance as NMG Sample has it by default; scale 0 is DDIM with text guidance."""
    return bench.nodes.NMGGuidance.execute(
        "fused", "direct", "l1", "auto", scale, GRADIENT_SCALE, 0.0, 1.0
    ).args[0]


def prompt_to_prompt(
    bench: Bench,
    edit: Edit,
    cross_replace: float = 0.8,
    self_replace: float = 0.5,
    blend: bool = False,
    blend_threshold: float = 0.3,
    per_kind: dict[str, dict[str, float]] | None = None,
) -> Any:
    """The node's editor; `per_kind` has settings for one kind of edit that replace the others."""
    settings = {
        "cross_replace": cross_replace,
        "self_replace": self_replace,
        "blend_threshold": blend_threshold,
        **(per_kind or {}).get(edit.kind, {}),
    }
    return bench.nodes.NMGPromptToPrompt.execute(
        bench.clip,
        scenes.caption(edit.source),
        scenes.caption(edit.target),
        "auto",
        blend_words=blend_words(edit) if blend else "",
        reweight="",
        **settings,
    ).args[0]


def blend_words(edit: Edit) -> str:
    """The words whose attention says where the edit is."""
    if edit.kind == "background":
        return "background"
    return f"{edit.source.shape}, {edit.target.shape}"


def masactrl(
    bench: Bench,
    edit: Edit,
    start_step: int = 4,
    start_layer: int = 10,
    per_kind: dict[str, dict[str, int]] | None = None,
) -> Any:
    """The node's editor, without masks."""
    settings = {"start_step": start_step, "start_layer": start_layer}
    settings |= (per_kind or {}).get(edit.kind, {})
    node = importlib.import_module("nmg_pack.nodes.masactrl").NMGMasaCtrl
    return node.execute(**settings).args[0]


def pix2pix_zero(bench: Bench, edit: Edit, attention_scale: float = 0.1) -> Any:
    """The node's editor; goes with `directed_prompts`."""
    node = importlib.import_module("nmg_pack.nodes.pix2pix_zero").NMGPix2PixZero
    return node.execute(attention_scale).args[0]


def directed_prompts(bench: Bench, edit: Edit, forms: bool = True) -> Any:
    """The source prompt moved along the edit's direction.

    Args:
        bench, edit: where the prompts are encoded, and what changes.
        forms: whether the direction is the mean over all forms of the captions, or of the
            caption's own form alone, which makes it the target prompt.
    """
    nodes = importlib.import_module("nmg_pack.nodes.direction")
    numbers = range(len(scenes.caption_forms)) if forms else (edit.source.form,)
    before, after = (
        "\n".join(scenes.caption(dataclasses.replace(scene, form=form)) for form in numbers)
        for scene in (edit.source, edit.target)
    )
    direction = nodes.NMGEditDirection.execute(bench.clip, before, after).args[0]
    return nodes.NMGApplyDirection.execute(bench.source_prompts, direction, 1.0).args[0]


def target_prompts(bench: Bench, edit: Edit) -> Any:
    """The target caption."""
    return bench.target_prompts


@dataclass(frozen=True)
class Method:
    """A guidance that holds the picture and, in the second of two settings, an editor under it.

    Attributes:
        guidance: makes it, for a bench.
        editor: makes it, for a bench and its edit; None is one branch under the target prompt.
        prompts: makes the prompt of the edit, for a bench and its edit.
        first: how many edits of the list it is tried on, for slow ones; None is all.
        text_scales: at which it is tried.
    """

    guidance: partial[Any]
    editor: partial[Any] | None = None
    prompts: partial[Any] = partial(target_prompts)
    first: int | None = None
    text_scales: tuple[float, ...] = TEXT_SCALES

    @property
    def settings(self) -> str:
        """Everything that was chosen, as JSON."""
        parts = [self.guidance, self.editor, self.prompts]
        if self.prompts.func is target_prompts:
            parts.pop()
        return json.dumps([STEPS, SCHEDULE, *(_read(part) for part in parts if part is not None)])

    @property
    def mark(self) -> str:
        """Short hash of the settings: a measurement with another one is of another method."""
        return hashlib.sha1(self.settings.encode()).hexdigest()[:8]


def _read(part: partial[Any]) -> list[Any]:
    function: Callable[..., Any] = part.func
    return [function.__name__, part.keywords]


STRONG = TEXT_SCALES[-1:]
WEAK_HOLD, HOLD = partial(nmg, scale=1.5), partial(nmg, scale=5.0)
P2P = partial(prompt_to_prompt)
P2P_TUNED = partial(prompt_to_prompt, per_kind=TUNED_PROMPT_TO_PROMPT)
P2P_BLEND = partial(prompt_to_prompt, blend=True, per_kind=TUNED_BLEND)
MASACTRL = partial(masactrl)
MASACTRL_TUNED = partial(masactrl, per_kind=TUNED_MASACTRL)
PIX2PIX_ZERO = partial(pix2pix_zero, attention_scale=0.5)
DIRECTED = partial(directed_prompts, forms=False)

METHODS = {
    "DDIM + CFG": Method(partial(nmg, scale=0.0)),
    "NMG 0.5": Method(partial(nmg, scale=0.5), text_scales=STRONG),
    "NMG 1.5": Method(WEAK_HOLD),
    "NMG 5": Method(HOLD),
    "P2P": Method(partial(nmg, scale=0.0), P2P, text_scales=STRONG),
    "P2P + NMG 1.5": Method(WEAK_HOLD, P2P, text_scales=STRONG),
    "P2P + NMG 5": Method(HOLD, P2P),
    "P2P + NMG 5, tuned": Method(HOLD, P2P_TUNED, text_scales=STRONG),
    "P2P + NMG 5, tuned, blend": Method(HOLD, P2P_BLEND),
    "MasaCtrl + NMG 5": Method(HOLD, MASACTRL, text_scales=STRONG),
    "MasaCtrl + NMG 5, tuned": Method(HOLD, MASACTRL_TUNED, text_scales=STRONG),
    "pix2pix-zero + NMG 5": Method(HOLD, PIX2PIX_ZERO, DIRECTED, first=30, text_scales=STRONG),
}
