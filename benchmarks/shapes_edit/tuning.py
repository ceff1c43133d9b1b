"""Settings of methods and editors, tried on the tuning split: never on the scored one."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

from shapes_edit.data import KINDS
from shapes_edit.editors import directed_prompts, masactrl, pix2pix_zero, prompt_to_prompt
from shapes_edit.holds import edit_friendly, negative_prompt, nmg, proximal
from shapes_edit.methods import TUNED_PROMPT_TO_PROMPT, Method
from shapes_edit.report import Lines, select

TEXT_SCALE = 7.5
# Title of the table: how the names of its settings begin.
PARTS = {
    "Noise Map Guidance": "NMG",
    "Negative-Prompt Inversion": "NPI",
    "Proximal guidance": "Prox",
    "Edit-Friendly Inversion": "EF",
    "NMG with the mask of NMG Edit Region": "region",
    "Prompt-to-Prompt": "cross",
    "Local blend, on the best of Prompt-to-Prompt": "blend",
    "MasaCtrl": "step",
    "pix2pix-zero (every second edit)": "attention",
}
FIGURES = ("success", "outside_psnr", "target_psnr")
_HELD = partial(nmg, scale=5.0)
# Places of the demo model's seven transformer blocks, counted as in SD 1.x: 0 is all of them,
# 10 the way up, 13 its fine half.
LAYERS = (0, 10, 13)


def grid() -> dict[str, Method]:
    """Every setting tried, by name."""
    return {**_guidances(), **_editors()}


def _guidances() -> dict[str, Method]:
    holds = {}
    for name, settings in NMG_SETTINGS.items():
        holds[f"NMG {name}"] = partial(nmg, **settings)
    for share in (0.0, 0.25, 0.5):
        holds[f"NPI {share:g}"] = partial(negative_prompt, interpolation=share)
    for threshold, quantile in product(("soft", "hard"), (0.4, 0.7, 0.9)):
        settings = {"threshold": threshold, "quantile": quantile}
        holds[f"Prox {threshold}, {quantile:g}"] = partial(proximal, **settings)
    for strength, start in ((1.0, 0.6), (1.0, 0.0)):
        settings = {"quantile": 0.7, "recon_strength": strength, "recon_start": start}
        holds[f"Prox soft, 0.7, recon {strength:g} from {start:g}"] = partial(proximal, **settings)
    for skip in (9, 18, 27):
        holds[f"EF {skip} of 50"] = partial(edit_friendly, steps=50, skip=skip)
    for threshold in (0.0, 0.2, 0.35, 0.5):
        for name, choices in REGION_HOLDS.items():
            region = {"threshold": threshold, "grow": 0}
            holds[f"region {threshold:g}, {name}"] = partial(nmg, region=region, **choices)
    return {name: Method(hold) for name, hold in holds.items()}


NMG_SETTINGS = {
    **{f"{scale:g}": {"scale": scale} for scale in (1.5, 5.0, 15.0)},
    **{
        f"official {scale:g}": {"scale": scale, "mode": "official", "gradient": "direct"}
        for scale in (1.0, 3.0)
    },
    **{f"5, falloff {share:g}": {"scale": 5.0, "falloff": share} for share in (0.5, 1.0)},
    **{f"5, refine {times}": {"scale": 5.0, "refine": times} for times in (1, 2)},
}
# What holds where the mask of the edit region is black and where it is white.
REGION_HOLDS = {
    "NMG 1.5": {"scale": 1.5},
    "NMG 5": {"scale": 5.0},
    "blend": {"scale": 1.5, "blend": 1.0},
}


def _editors() -> dict[str, Method]:
    methods = {}
    for cross, itself in product((0.4, 0.8, 1.0), (0.0, 0.2, 0.5, 0.8)):
        editor = partial(prompt_to_prompt, cross_replace=cross, self_replace=itself)
        methods[f"cross {cross:g}, self {itself:g}"] = Method(_HELD, editor)
    for step, layer in product((4, 10, 20, 30), LAYERS):
        editor = partial(masactrl, start_step=step, start_layer=layer)
        methods[f"step {step}, layer {layer}"] = Method(_HELD, editor)
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7):
        settings = {"per_kind": TUNED_PROMPT_TO_PROMPT, "blend": True}
        editor = partial(prompt_to_prompt, blend_threshold=threshold, **settings)
        methods[f"blend threshold {threshold:g}"] = Method(_HELD, editor)
    for scale, forms in ((0.1, False), (0.5, False), (0.1, True)):
        editor = partial(pix2pix_zero, attention_scale=scale)
        prompts = partial(directed_prompts, forms=forms)
        name = f"attention scale {scale:g}, direction of {'all forms' if forms else 'one form'}"
        methods[name] = Method(_HELD, editor, prompts, every={TEXT_SCALE: 2})
    return methods


def write_markdown(lines: Lines, path: Path) -> None:
    """A table per method: success, dB outside the mask, dB of all to the true target; the best."""
    parts = []
    for title, first in PARTS.items():
        names = [name for name in grid() if name.startswith(first)]
        best = {kind: _best(lines, names, kind) for kind in KINDS}
        rows = [f"### {title}", "", "| setting | " + " | ".join(KINDS) + " |"]
        rows.append("|---" * (1 + len(KINDS)) + "|")
        for name in names:
            cells = [_cell(_means(lines, name, kind), name == best[kind]) for kind in KINDS]
            rows.append(" | ".join([f"| {name}", *cells]) + " |")
        parts.append("\n".join(rows))
    path.write_text("\n\n".join(parts) + "\n")


def _best(lines: Lines, names: list[str], kind: str) -> str | None:
    """Of the settings that fail at most one edit more than the best: nearest to the truth."""
    found = {name: means for name in names if (means := _means(lines, name, kind))}
    if not found:
        return None
    count = len(select(lines, method=next(iter(found)), kind=kind))
    least = max(means["success"] for means in found.values()) - 1 / count - 1e-9
    good = [name for name, means in found.items() if means["success"] >= least]
    return max(good, key=lambda name: found[name]["target_psnr"])


def _means(lines: Lines, name: str, kind: str) -> dict[str, float]:
    found = select(lines, method=name, kind=kind)
    return {f: mean(line[f] for line in found) for f in FIGURES} if found else {}


def _cell(means: dict[str, float], best: bool) -> str:
    if not means:
        return ""
    success, *decibels = means.values()
    text = ", ".join([f"{success:.2f}", *(f"{value:.1f}" for value in decibels)])
    return f"**{text}**" if best else text
