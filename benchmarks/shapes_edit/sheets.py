"""Pictures of the same edits under several methods, side by side."""

from __future__ import annotations

import dataclasses
import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_edits import Bench, Edit, scenes
from matplotlib import pyplot as plt
from PIL import Image

from shapes_edit.editors import blend_words
from shapes_edit.measure import carried_out, keep, kept, runs_of
from shapes_edit.methods import STRONG, Method

Columns = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows: edits by number, methods by name."""

    edits: tuple[int, ...]
    methods: dict[str, Method]
    text_scale: float = STRONG
    with_target: bool = True


def draw_sheet(edits: list[Edit], sheet: Sheet, kept_in: Path, path: Path, colours: int) -> None:
    """A row per edit, a labelled column per method, as a PNG with a palette.

    Args:
        edits: the list that the sheet counts in.
        sheet: what to show.
        kept_in: folder of pictures that were made before.
        path: of the PNG.
        colours: of its palette.
    """
    columns = _pictures(edits, sheet, kept_in)
    rows = len(sheet.edits)
    figure, grid = plt.subplots(
        rows, len(columns), figsize=(1.12 * len(columns) + 0.4, 1.1 * rows + 0.5), squeeze=False
    )
    for column, (label, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes = grid[row, column]
            axes.imshow(picture, interpolation="none")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(textwrap.fill(label, 12), fontsize=8)
            if column == 0:
                axes.set_ylabel(_change(edits[sheet.edits[row]]), fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    _save(figure, path, colours)


def _pictures(edits: list[Edit], sheet: Sheet, folder: Path) -> Columns:
    shown = Bench([edits[number] for number in sheet.edits])
    columns: Columns = {"source": list(shown.pictures)}
    if sheet.with_target:
        columns["true target"] = [scenes.render(edit.target) for edit in shown.edits]
    found = runs_of(sheet.edits, sheet.methods)
    runs = [run for run in found if run.text_scale == sheet.text_scale]
    missing = [run for run in runs if kept(folder, run) is None]
    for run, _, sampled in carried_out(edits, missing):
        keep(folder, run, sampled.pictures[0])
    blank = np.ones_like(shown.pictures[0])
    for name in sheet.methods:
        ours = {run.edit: kept(folder, run) for run in runs if run.name == name}
        columns[name] = [ours.get(number, blank) for number in sheet.edits]
    return columns


def draw_grid(
    cells: list[list[np.ndarray | None]], rows: list[str], columns: list[str], path: Path
) -> None:
    """Pictures of a sweep, labelled on both sides, as a PNG with a palette; None stays blank."""
    figure, grid = plt.subplots(
        len(rows), len(columns), figsize=(1.12 * len(columns) + 0.6, 1.12 * len(rows) + 0.4)
    )
    for row, (label, pictures) in enumerate(zip(rows, cells, strict=True)):
        for column, picture in enumerate(pictures):
            axes = grid[row, column]
            if picture is not None:
                axes.imshow(picture, interpolation="none")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(columns[column], fontsize=8)
            if column == 0:
                axes.set_ylabel(label.replace(" ", "\n"), fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    _save(figure, path, 256)


def _change(edit: Edit) -> str:
    before, after = (getattr(scene, edit.attribute) for scene in (edit.source, edit.target))
    return f"{edit.kind}\n{before}\n-> {after}"


def _save(figure: plt.Figure, path: Path, colours: int) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, bbox_inches="tight", pad_inches=0.03)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    # A palette that covers all colours: those of a single picture are few pixels of the sheet.
    method, plain = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    image.quantize(colours, method, kmeans=3, dither=plain).save(path, optimize=True)


def draw_blend(edits: list[Edit], numbers: tuple[int, ...], method: Method, path: Path) -> None:
    """Where local blend lets an edit show at some thresholds, and where it should."""
    thresholds = (0.3, 0.5, 0.6, 0.7)
    titles = ["source", "map of the word", *(f"above {t:g}" for t in thresholds), "true mask"]
    figure, grid = plt.subplots(
        len(numbers), len(titles), figsize=(1.2 * len(titles), 1.2 * len(numbers) + 0.3)
    )
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    for row, number in zip(grid, numbers, strict=True):
        bench, blend = _blend_of(edits[number], method)
        maps = blend.maps[0].total.amax(0)[0]
        wide = [_at_threshold(blend, threshold) for threshold in thresholds]
        shown = [bench.pictures[0], maps / maps.max(), *wide, edits[number].may_change]
        for axes, picture in zip(row, shown, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="none")
            axes.set(xticks=[], yticks=[])
        label = f"{_change(edits[number])}\n({blend_words(edits[number])})"
        row[0].set_ylabel(label, fontsize=6)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    _save(figure, path, 64)


def _blend_of(edit: Edit, method: Method) -> tuple[Bench, Any]:
    """The local blend after a run of a method that has one."""
    bench = Bench([edit])
    kept: list[Any] = []
    editor = method.editor(bench, edit)

    class Watched(type(editor)):
        """The editor, whose run is kept."""

        def begin(self, run: Any) -> Any:
            kept.append(super().begin(run))
            return kept[-1]

    watched = Watched(editor.edits, editor.self_replace, editor.blend)
    held = method.holds(bench)
    bench.edit(held.trajectory, bench.target_prompts, STRONG, held.guidance, watched, held.mask)
    return bench, kept[0].blend


def _at_threshold(blend: Any, threshold: float) -> np.ndarray:
    blend.blend = dataclasses.replace(blend.blend, threshold=threshold)
    return blend.mask(0, (16, 16))[0, 0].numpy()
