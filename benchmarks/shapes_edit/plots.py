"""The trade-off plot, and the heat maps of the sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from shapes_edit.data import KINDS
from shapes_edit.methods import CURVES, STRONG
from shapes_edit.report import Lines, select

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def plot_tradeoff(table: Lines, path: Path) -> None:
    """PSNR outside the mask over success: a point per method and text scale, a panel per kind.

    The points of one curve, a method at several strengths, are joined.
    """
    figure, grid = plt.subplots(2, 2, figsize=(13, 11), sharey=True, sharex=True)
    colours = plt.get_cmap("tab20").colors
    for axes, kind in zip(grid.flat, KINDS, strict=True):
        chosen = select(table, kind=kind)
        for index, curve in enumerate(CURVES):
            _curve(axes, chosen, curve, colours[index % len(colours)])
        axes.set(title=f"{kind} edits", xlim=(-0.05, 1.05))
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel("PSNR outside the true mask, dB")
    for axes in grid[-1]:
        axes.set_xlabel("edit success")
    handles, names = grid[0, 0].get_legend_handles_labels()
    title = f"filled: text scale {STRONG:g}, hollow: another\nround: alone, diamond: editor"
    figure.legend(
        handles, names, loc="outside right upper", fontsize=8, title=title, title_fontsize=7
    )
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _curve(axes: Any, table: Lines, curve: str, colour: Any) -> None:
    label: str | None = curve
    alone = next(iter(CURVES[curve].values())).editor is None
    scales = {row["text_scale"] for row in table}
    # The filled one first: its mark is the legend's.
    for text_scale in sorted(scales, key=lambda scale: abs(scale - STRONG)):
        rows = [
            row
            for name in CURVES[curve]
            for row in select(table, method=name, text_scale=text_scale)
        ]
        if rows:
            axes.plot(
                [row["success"] for row in rows],
                [row["outside_psnr"] for row in rows],
                marker="o" if alone else "D",
                linewidth=1,
                color=colour,
                markerfacecolor=colour if text_scale == STRONG else "white",
                markersize=7,
                label=label,
            )
            label = None


def plot_heat(
    panels: dict[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], path: Path
) -> None:
    """Grids of numbers as heat maps side by side.

    Args:
        panels: title: (rows, columns) numbers.
        rows, columns: labels of the grid.
        path: of the PNG.
    """
    figure, grid = plt.subplots(
        1, len(panels), figsize=(0.62 * len(columns) * len(panels) + 2, 0.45 * len(rows) + 1.6),
        squeeze=False,
    )  # fmt: skip
    for axes, (title, values) in zip(grid[0], panels.items(), strict=True):
        axes.imshow(values, cmap="viridis", aspect="auto")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (row, column), value in np.ndenumerate(values):
            shade = "white" if value < middle else "black"
            text = f"{value:.2f}" if np.nanmax(values) <= 1 else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=shade)
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=90)
    plt.close(figure)
