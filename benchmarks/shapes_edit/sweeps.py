"""Sweeps, as the paper's ablation: the two scales against each other, and the gradient scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from demo_edits import Edit

from shapes_edit.holds import nmg
from shapes_edit.measure import kept, runs_of
from shapes_edit.methods import Method
from shapes_edit.plots import plot_heat
from shapes_edit.report import Lines, select
from shapes_edit.sheets import draw_grid

EVERY = 8  # of the edits of the list
TEXT_SCALES = (3.0, 5.0, 7.5, 10.0)
FEW_TEXT_SCALES = (7.5,)
NOISE_MAP_SCALES = (0.0, 0.5, 1.5, 5.0, 15.0, 50.0)
GRADIENT_SCALES = (500.0, 1500.0, 5000.0, 15000.0, 50000.0)
FIGURES = {
    "success": "edit success",
    "outside_psnr": "dB outside the mask",
    "target_psnr": "dB to the true target",
}


def _methods(
    values: tuple[float, ...], text_scales: tuple[float, ...], name: str, **settings: Any
) -> dict[str, Method]:
    every = dict.fromkeys(text_scales, EVERY)
    return {f"{v:g}": Method(partial(nmg, **{name: v}, **settings), every=every) for v in values}


@dataclass(frozen=True)
class Sweep:
    """A grid: rows of one setting, columns of text scales."""

    setting: str
    text_scales: tuple[float, ...]
    rows: dict[str, Method]


SWEEPS = {
    "scales": Sweep(
        "noise_map_scale", TEXT_SCALES, _methods(NOISE_MAP_SCALES, TEXT_SCALES, "scale")
    ),
    # As the paper has it: two sub-steps and the full gradient, at a noise_map_scale of 1.
    "gradient": Sweep(
        "gradient_scale",
        FEW_TEXT_SCALES,
        _methods(
            GRADIENT_SCALES,
            FEW_TEXT_SCALES,
            "gradient_scale",
            scale=1.0,
            mode="official",
            gradient="full",
        ),
    ),
}


def methods() -> dict[str, Method]:
    """All methods by a name that says which sweep each is of."""
    return {
        f"{name} {row}": method
        for name, sweep in SWEEPS.items()
        for row, method in sweep.rows.items()
    }


def draw(lines: Lines, edits: list[Edit], pictures: Path, folder: Path) -> None:
    """A heat map per sweep and figure, and contact sheets of two edits, into `folder`."""
    for name, sweep in SWEEPS.items():
        labels = [f"{sweep.setting} {row}" for row in sweep.rows]
        columns = [f"text_scale {scale:g}" for scale in sweep.text_scales]
        panels = {
            words: np.array(
                [
                    [_mean(lines, f"{name} {row}", scale, figure) for scale in sweep.text_scales]
                    for row in sweep.rows
                ]
            )
            for figure, words in FIGURES.items()
        }
        plot_heat(panels, labels, [f"{s:g}" for s in sweep.text_scales], folder / f"{name}.png")
        for kind in ("colour", "background"):
            runs = runs_of((_first_of(edits, kind),), sweep.rows)
            found = {(run.name, run.text_scale): kept(pictures, run) for run in runs}
            cells = [[found[row, scale] for scale in sweep.text_scales] for row in sweep.rows]
            draw_grid(cells, labels, columns, folder / f"{name}-{kind}.png")


def _mean(lines: Lines, name: str, text_scale: float, figure: str) -> float:
    found = select(lines, method=name, text_scale=text_scale)
    return mean(line[figure] for line in found) if found else float("nan")


def _first_of(edits: list[Edit], kind: str) -> int:
    return next(n for n in range(0, len(edits), EVERY) if edits[n].kind == kind)
