"""Tables and the trade-off plot of what was measured."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from demo_edits import Edit, scenes
from first_results import interval

from shapes_edit.data import KINDS
from shapes_edit.measure import words_read
from shapes_edit.methods import METHODS, TEXT_SCALES

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

Lines = list[dict[str, Any]]

FIGURES = (
    "success",
    "all_words",
    "outside_psnr",
    "outside_ssim",
    "outside_mse",
    "inside_psnr",
    "target_psnr",
    "source_psnr",
    "source_ssim",
    "forward_calls",
    "forward_rows",
    "backward_rows",
    "core_seconds",
)
# Pairs whose difference on the same edits is asked for: (the better one by the claim, the other).
PAIRS = (
    ("NMG 5", "DDIM + CFG"),
    ("P2P + NMG 5", "P2P"),
    ("P2P + NMG 5", "NMG 5"),
    ("P2P + NMG 5, tuned", "NMG 5"),
    ("P2P + NMG 5, tuned, blend", "P2P + NMG 5, tuned"),
    ("MasaCtrl + NMG 5, tuned", "NMG 5"),
    ("MasaCtrl + NMG 5, tuned", "P2P + NMG 5, tuned"),
)


def summarise(lines: Lines) -> Lines:
    """Means with 95 % bootstrap intervals per method, text scale and kind of edit ("all" too)."""
    table = []
    for name, method in METHODS.items():
        for text_scale in TEXT_SCALES:
            ours = select(lines, method=name, text_scale=text_scale)
            for kind in ("all", *KINDS):
                chosen = ours if kind == "all" else select(ours, kind=kind)
                if chosen:
                    head = {"method": name, "text_scale": text_scale, "kind": kind}
                    head |= {"edits": len(chosen), "settings": method.settings}
                    table.append(head | _means(chosen))
    return table


def _means(lines: Lines) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for figure in FIGURES:
        values = [line[figure] for line in lines if line.get(figure) is not None]
        if values:
            row[figure], row[f"{figure}_low"], row[f"{figure}_high"] = interval(values)
    return row


def select(lines: Lines, **wanted: Any) -> Lines:
    """The lines that have these values."""
    return [line for line in lines if all(line[key] == value for key, value in wanted.items())]


def write_csv(table: Lines, path: Path) -> None:
    columns = list(dict.fromkeys(name for row in table for name in row))
    rounded = [
        {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in table
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rounded)


def write_markdown(lines: Lines, table: Lines, edits: list[Edit], path: Path) -> None:
    """All tables, the short one first."""
    parts = [_overview(table)]
    seen = sorted({row["text_scale"] for row in table})
    parts += [_kind_table(table, kind, scale) for kind in KINDS for scale in seen]
    parts += [_reconstruction(table), _pairs(lines), _cost(table), _checkers(edits)]
    path.write_text("\n\n".join(parts) + "\n")


def _grid(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"### {title}", "", *lines])


def _overview(table: Lines) -> str:
    """Success and PSNR outside the mask, kinds by text scales."""
    columns = [(kind, scale) for scale in TEXT_SCALES for kind in KINDS]
    rows = []
    for name in METHODS:
        found = {(row["kind"], row["text_scale"]): row for row in select(table, method=name)}
        cells = [found.get(column) for column in columns]
        rows.append(
            [name, *(f"{c['success']:.2f}, {c['outside_psnr']:.1f}" if c else "" for c in cells)]
        )
    head = ["method", *(f"{kind}, text scale {scale:g}" for kind, scale in columns)]
    return _grid("Success, and dB outside the mask", head, rows)


def _kind_table(table: Lines, kind: str, text_scale: float) -> str:
    cells: dict[str, Callable[[dict[str, Any]], str]] = {
        "success": lambda row: _cell(row, "success", 2),
        "all words right": lambda row: _cell(row, "all_words", 2),
        "outside: dB": lambda row: _cell(row, "outside_psnr", 1),
        "outside: SSIM": lambda row: _cell(row, "outside_ssim", 3),
        "outside: MSE x 1000": lambda row: _cell(row, "outside_mse", 2, 1000),
        "inside: dB to the true target": lambda row: _cell(row, "inside_psnr", 1),
    }
    chosen = select(table, kind=kind, text_scale=text_scale)
    rows = [[row["method"], *(cell(row) for cell in cells.values())] for row in chosen]
    title = f"{kind.capitalize()} edits, text scale {text_scale:g}"
    return _grid(title, ["method", *cells], rows)


def _reconstruction(table: Lines) -> str:
    """The source branch under each guidance."""
    rows = []
    for row in select(table, kind="all"):
        if "source_psnr" in row:
            figures = _cell(row, "source_psnr", 1), _cell(row, "source_ssim", 3)
            rows.append([row["method"], f"{row['text_scale']:g}", *figures])
    head = ["method", "text scale", "dB", "SSIM"]
    return _grid("Reconstruction: the source branch against the picture", head, rows)


def _pairs(lines: Lines) -> str:
    """Differences on the same edits, with intervals of the difference."""
    rows = []
    for first, second in PAIRS:
        for kind in KINDS:
            for scale in TEXT_SCALES:
                both = [
                    {line["edit"]: line for line in select(lines, **wanted)}
                    for wanted in (
                        {"method": name, "kind": kind, "text_scale": scale}
                        for name in (first, second)
                    )
                ]
                shared = sorted(both[0].keys() & both[1].keys())
                if shared:
                    cells = [
                        _difference([both[0][n][f] - both[1][n][f] for n in shared], digits)
                        for f, digits in (("success", 2), ("outside_psnr", 1), ("inside_psnr", 1))
                    ]
                    rows.append([f"{first} - {second}", kind, f"{scale:g}", *cells])
    head = ["difference", "edits", "text scale", "success", "outside, dB", "inside, dB"]
    return _grid("Differences on the same edits", head, rows)


def _difference(values: list[float], digits: int) -> str:
    mean, low, high = interval(values)
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _cost(table: Lines) -> str:
    rows = []
    for row in select(table, kind="all", text_scale=TEXT_SCALES[-1]):
        counts = [f"{row[name]:.0f}" for name in FIGURES[-4:-1]]
        rows.append([row["method"], *counts, _cell(row, "core_seconds", 2)])
    head = ["method", "forward calls", "forward rows", "backward rows", "seconds on a core"]
    return _grid("Cost of an edit without its inversion", head, rows)


def _checkers(edits: list[Edit]) -> str:
    """How often the checkers are right about the true pictures."""
    rows = []
    for kind in KINDS:
        chosen = [(edit, scenes.render(edit.target)) for edit in edits if edit.kind == kind]
        if chosen:
            read = [words_read(picture, edit) for edit, picture in chosen]
            names = ("success", "all_words")
            rows.append([kind, *(f"{np.mean([r[n] for r in read]):.3f}" for n in names)])
    head = ["edits", "success", "all words right"]
    return _grid("The checkers on the true target pictures", head, rows)


def _cell(row: dict[str, Any], name: str, digits: int, factor: float = 1.0) -> str:
    mean, low, high = (f"{factor * row[name + end]:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{mean} ({low} to {high})"


def plot_tradeoff(table: Lines, path: Path) -> None:
    """PSNR outside the mask over success: a point per method and text scale, a panel per kind."""
    figure, panels = plt.subplots(1, len(KINDS), figsize=(15, 5), sharey=True)
    colours = plt.get_cmap("tab20").colors
    for axes, kind in zip(panels, KINDS, strict=True):
        for index, name in enumerate(METHODS):
            for row in select(table, method=name, kind=kind):
                _point(axes, row, colours[index % len(colours)])
        axes.set(title=f"{kind} edits", xlabel="edit success", xlim=(-0.05, 1.05))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("PSNR outside the true mask, dB")
    last = TEXT_SCALES[-1]
    handles = {h.get_label(): h for h in panels[0].get_legend_handles_labels()[0]}
    names = [name for name in METHODS if f"{name}, {last:g}" in handles]
    figure.legend(
        [handles[f"{name}, {last:g}"] for name in names],
        names,
        loc="outside right upper",
        fontsize=8,
        title=f"filled: text scale {last:g}, hollow: {TEXT_SCALES[0]:g}",
        title_fontsize=7,
    )
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _point(axes: Any, row: dict[str, Any], colour: Any) -> None:
    alone = METHODS[row["method"]].editor is None
    filled = row["text_scale"] == TEXT_SCALES[-1]
    axes.plot(
        row["success"],
        row["outside_psnr"],
        "o" if alone else "D",
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=8,
        label=f"{row['method']}, {row['text_scale']:g}",
    )
    x, y = "success", "outside_psnr"
    faint = {"color": colour, "alpha": 0.3, "linewidth": 1}
    axes.plot([row[f"{x}_low"], row[f"{x}_high"]], [row[y]] * 2, **faint)
    axes.plot([row[x]] * 2, [row[f"{y}_low"], row[f"{y}_high"]], **faint)
