"""The methods under measurement: a table to which a method is added by one line.

A method is what keeps the picture (`holds`) and an editor or none (`editors`), as partials of
their factories, so that their settings can be read off and recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from shapes_edit.editors import (
    directed_prompts,
    masactrl,
    pix2pix_zero,
    prompt_to_prompt,
    target_prompts,
)
from shapes_edit.holds import (
    SCHEDULE,
    STEPS,
    direct_inversion,
    edit_friendly,
    negative_prompt,
    nmg,
    null_text,
    proximal,
)

TEXT_SCALES = (3.0, 7.5)

# What --tune found best on the tuning split, per kind of edit; see docs/benchmark.md.
TUNED_PROMPT_TO_PROMPT = {
    "colour": {"cross_replace": 1.0, "self_replace": 0.8},
    "shape": {"cross_replace": 0.4, "self_replace": 0.2},
    "background": {"cross_replace": 1.0, "self_replace": 0.8},
    "pattern": {"cross_replace": 1.0, "self_replace": 0.2},
}
TUNED_BLEND = {
    "colour": {**TUNED_PROMPT_TO_PROMPT["colour"], "blend_threshold": 0.6},
    "shape": {**TUNED_PROMPT_TO_PROMPT["shape"], "blend_threshold": 0.7},
    "background": {**TUNED_PROMPT_TO_PROMPT["background"], "blend_threshold": 0.3},
    "pattern": {**TUNED_PROMPT_TO_PROMPT["pattern"], "blend_threshold": 0.3},
}
TUNED_MASACTRL = {
    "colour": {"start_step": 30, "start_layer": 0},
    "shape": {"start_step": 20, "start_layer": 10},
    "background": {"start_step": 30, "start_layer": 0},
    "pattern": {"start_step": 4, "start_layer": 13},
}


@dataclass(frozen=True)
class Method:
    """Something that keeps the picture and, in the second of two settings, an editor under it.

    Attributes:
        holds: makes what keeps the picture, for a bench.
        editor: makes it, for a bench and its edit; None is one branch under the target prompt.
        prompts: makes the prompt of the edit, for a bench and its edit.
        every: text scale: it is tried there on the edits whose number this divides, 1 being all.
    """

    holds: partial[Any]
    editor: partial[Any] | None = None
    prompts: partial[Any] = partial(target_prompts)
    every: Mapping[float, int] = field(default_factory=lambda: {STRONG: 1})

    @property
    def settings(self) -> str:
        """Everything that was chosen, as JSON."""
        parts = [self.holds, self.editor, self.prompts]
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


WEAK, STRONG = TEXT_SCALES
# The kinds of edit follow each other in threes, so that each gets its share of every second,
# fourth, eighth or sixteenth edit: further points of a curve, slow methods, and slower ones.
BOTH, HALF, QUARTER, EIGHTH = {STRONG: 1, WEAK: 2}, {STRONG: 2}, {STRONG: 4}, {STRONG: 8}

PLAIN, WEAK_HOLD, HOLD = (partial(nmg, scale=scale) for scale in (0.0, 1.5, 5.0))
PAPER = partial(nmg, scale=10.0, mode="official", gradient="full")
REGION = partial(nmg, scale=1.5, region={"threshold": 0.0, "grow": 0})
HOLD_REGION = partial(nmg, scale=5.0, region={"threshold": 0.0, "grow": 0})
NTI = partial(null_text, text_scale=STRONG)
NPI, PROX, DIRECT = partial(negative_prompt), partial(proximal), partial(direct_inversion)
NPI_TUNED, PROX_TUNED = partial(negative_prompt, interpolation=0.5), partial(proximal, quantile=0.7)
P2P = partial(prompt_to_prompt)
P2P_TUNED = partial(prompt_to_prompt, per_kind=TUNED_PROMPT_TO_PROMPT)
P2P_BLEND = partial(prompt_to_prompt, blend=True, per_kind=TUNED_BLEND)
MASACTRL = partial(masactrl)
MASACTRL_TUNED = partial(masactrl, per_kind=TUNED_MASACTRL)
PIX2PIX_ZERO = partial(pix2pix_zero, attention_scale=0.5)
DIRECTED = partial(directed_prompts, forms=False)


def _edit_friendly(skip: int) -> partial[Any]:
    return partial(edit_friendly, steps=50, skip=skip)


# A curve is a method at several strengths; a point of it is a line of the tables.
CURVES: dict[str, dict[str, Method]] = {
    # Alone: one branch under the target prompt.
    "DDIM": {"DDIM + CFG": Method(PLAIN, every=BOTH)},
    "NMG": {
        "NMG 1.5": Method(WEAK_HOLD, every=BOTH),
        "NMG 5": Method(HOLD, every=BOTH),
        "NMG 15": Method(partial(nmg, scale=15.0), every=QUARTER),
    },
    "NMG, refined": {
        "NMG 5, refine 2": Method(partial(nmg, scale=5.0, refine=2), every=QUARTER),
    },
    "NMG official": {
        "NMG official 1": Method(
            partial(nmg, scale=1.0, mode="official", gradient="full"), every=QUARTER
        ),
        "NMG official 10 (paper)": Method(PAPER, every=QUARTER),
    },
    "NMG + region": {"NMG + region": Method(REGION, every=BOTH)},
    "NTI": {"NTI": Method(NTI, every=QUARTER)},
    "NPI": {
        "NPI": Method(NPI, every=HALF),
        "NPI, tuned": Method(NPI_TUNED, every=BOTH),
    },
    "ProxNPI": {
        "ProxNPI": Method(PROX, every=QUARTER),
        "ProxNPI, tuned": Method(PROX_TUNED, every=BOTH),
    },
    "Edit-Friendly": {
        "Edit-Friendly 36 of 100 (paper)": Method(
            partial(edit_friendly), every={STRONG: 8, 15.0: 8}
        ),
        "Edit-Friendly 9 of 50": Method(_edit_friendly(9), every=QUARTER),
        "Edit-Friendly 18 of 50": Method(_edit_friendly(18), every=QUARTER),
        "Edit-Friendly 27 of 50": Method(_edit_friendly(27), every=QUARTER),
    },
    # Each method as the guidance of the source branch under Prompt-to-Prompt.
    "P2P + DDIM": {"P2P": Method(PLAIN, P2P)},
    "P2P + NMG": {
        "P2P + NMG 1.5": Method(WEAK_HOLD, P2P, every=QUARTER),
        "P2P + NMG 5": Method(HOLD, P2P, every=BOTH),
    },
    "P2P + NMG official": {"P2P + NMG official 10 (paper)": Method(PAPER, P2P, every=QUARTER)},
    "P2P + NTI": {"P2P + NTI": Method(NTI, P2P, every=QUARTER)},
    "P2P + NPI": {
        "P2P + NPI": Method(NPI, P2P, every=HALF),
        "P2P + NPI, tuned": Method(NPI_TUNED, P2P, every=QUARTER),
    },
    "P2P + ProxNPI": {
        "P2P + ProxNPI": Method(PROX, P2P, every=QUARTER),
        "P2P + ProxNPI, tuned": Method(PROX_TUNED, P2P, every=QUARTER),
    },
    "P2P + Direct Inversion": {"P2P + Direct Inversion": Method(DIRECT, P2P, every=HALF)},
    "P2P + Edit-Friendly": {
        "P2P + Edit-Friendly 18 of 50": Method(
            partial(edit_friendly, steps=50, skip=18, source_scale=STRONG), P2P, every=QUARTER
        ),
    },
    "P2P tuned + NMG": {
        "P2P + NMG 5, tuned": Method(HOLD, P2P_TUNED),
        "P2P + NMG 5, tuned, blend": Method(HOLD, P2P_BLEND, every=BOTH),
        "P2P + NMG 5, tuned, region": Method(HOLD_REGION, P2P_TUNED, every=QUARTER),
    },
    # Other editors.
    "MasaCtrl + NMG": {
        "MasaCtrl + NMG 5": Method(HOLD, MASACTRL, every=QUARTER),
        "MasaCtrl + NMG 5, tuned": Method(HOLD, MASACTRL_TUNED, every=QUARTER),
    },
    "pix2pix-zero + NMG": {
        "pix2pix-zero + NMG 5": Method(HOLD, PIX2PIX_ZERO, DIRECTED, every=EIGHTH),
    },
}
METHODS = {name: method for points in CURVES.values() for name, method in points.items()}
# On all edits in any case: what is compared first.
_ON_ALL = ("DDIM + CFG", "NMG 5")


def sparser(methods: dict[str, Method]) -> dict[str, Method]:
    """The same methods on half as many edits, on a quarter at weak text scales.

    But for the strong points of those compared first, which stay on all.
    """
    return {
        name: replace(
            method,
            every={
                text_scale: every
                if name in _ON_ALL and every == 1
                else every * (2 if text_scale >= STRONG else 4)
                for text_scale, every in method.every.items()
            },
        )
        for name, method in methods.items()
    }
