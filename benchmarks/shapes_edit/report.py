"""Tables of what was measured."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from demo_edits import Edit, scenes
from first_results import interval

from shapes_edit.data import KINDS
from shapes_edit.measure import words_read
from shapes_edit.methods import CURVES, METHODS, STRONG, TEXT_SCALES

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
    ("NMG 5", "NPI"),
    ("NMG + region", "NMG 1.5"),
    ("NMG + region", "NTI"),
    ("NMG + region", "NPI"),
    ("NMG + region", "ProxNPI, tuned"),
    ("P2P + NMG 5", "P2P"),
    ("P2P + NMG 5", "P2P + NTI"),
    ("P2P + NMG 5", "P2P + NPI"),
    ("P2P + NMG 5", "P2P + ProxNPI"),
    ("P2P + NMG 5", "P2P + Direct Inversion"),
    ("P2P + NMG 5", "NMG 5"),
    ("P2P + NMG 5, tuned", "NMG 5"),
    ("P2P + NMG 5, tuned, blend", "P2P + NMG 5, tuned"),
    ("MasaCtrl + NMG 5, tuned", "P2P + NMG 5, tuned"),
)
# The slowest of the methods that are compared at equal success, measured on the fewest edits.
_RAREST = "NTI"
# At which success the curves are compared.
LEVELS = (0.9, 0.95)


def summarise(lines: Lines) -> Lines:
    """Means with 95 % bootstrap intervals per method, text scale and kind of edit ("all" too)."""
    table = []
    for name, method in METHODS.items():
        for text_scale in method.every:
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
    parts += [_equal_success(lines), _reconstruction(table), _pairs(lines), _cost(table)]
    parts.append(_checkers(edits))
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


def _equal_success(lines: Lines) -> str:
    """Each curve at the same success, on the edits on which all of its rivals are measured.

    Of the points of a curve that succeed that often, the best one outside the mask.
    """
    shared = {line["edit"] for line in select(lines, method=_RAREST)}
    groups = {
        "alone": [c for c, points in CURVES.items() if _is_alone(points)],
        "Prompt-to-Prompt": [c for c in CURVES if c.startswith("P2P")],
    }
    rows = []
    for group, curves in groups.items():
        for kind in KINDS:
            ours = select([line for line in lines if line["edit"] in shared], kind=kind)
            for curve in curves:
                cells = [_best_point(ours, curve, level) for level in LEVELS]
                if any(cells):
                    rows.append([group, kind, curve, *cells])
    head = ["setting", "edits", "curve", *(f"success {level:g} or more" for level in LEVELS)]
    return _grid("Curves at equal success: dB outside the mask", head, rows)


def _is_alone(points: dict[str, Any]) -> bool:
    return all(point.editor is None for point in points.values())


def _best_point(lines: Lines, curve: str, level: float) -> str:
    found = {}
    for name in CURVES[curve]:
        for scale in sorted({line["text_scale"] for line in select(lines, method=name)}):
            point = select(lines, method=name, text_scale=scale)
            if np.mean([line["success"] for line in point]) >= level:
                values = [line["outside_psnr"] for line in point]
                found[np.mean(values)] = f"{np.mean(values):.1f} ({name}, text scale {scale:g})"
    return found[max(found)] if found else ""


def _difference(values: list[float], digits: int) -> str:
    mean, low, high = interval(values)
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _cost(table: Lines) -> str:
    chosen = select(table, kind="all", text_scale=STRONG)
    plain = next(row["core_seconds"] for row in chosen)
    rows = []
    for row in chosen:
        counts = [f"{row[name]:.0f}" for name in FIGURES[-4:-1]]
        seconds = _cell(row, "core_seconds", 2)
        rows.append([row["method"], *counts, seconds, f"{row['core_seconds'] / plain:.1f}"])
    head = ["method", "forward calls", "forward rows", "backward rows", "seconds on a core"]
    title = "Cost of an edit beyond a plain inversion of its picture"
    return _grid(title, [*head, f"of those of {chosen[0]['method']}"], rows)


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
