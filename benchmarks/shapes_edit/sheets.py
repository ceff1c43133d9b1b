"""Pictures of the same edits under several methods, side by side."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_edits import Bench, Edit, scenes
from matplotlib import pyplot as plt
from PIL import Image

from shapes_edit.measure import carried_out, keep, kept, runs_of
from shapes_edit.methods import SCHEDULE, STEPS, TEXT_SCALES, Method, blend_words

Columns = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows: edits by number, methods by name."""

    edits: tuple[int, ...]
    methods: dict[str, Method]
    text_scale: float
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
                axes.set_title(label.replace(" + ", "\n+ ").replace(", ", "\n"), fontsize=8)
            if column == 0:
                axes.set_ylabel(_change(edits[sheet.edits[row]]), fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    _save(figure, path, colours)


def _pictures(edits: list[Edit], sheet: Sheet, folder: Path) -> Columns:
    shown = Bench([edits[number] for number in sheet.edits])
    columns: Columns = {"source": list(shown.pictures)}
    if sheet.with_target:
        columns["true target"] = [scenes.render(edit.target) for edit in shown.edits]
    runs = runs_of(sheet.edits, sheet.methods, (sheet.text_scale,))
    missing = [run for run in runs if kept(folder, run) is None]
    for run, _, sampled in carried_out(edits, missing):
        keep(folder, run, sampled.pictures[0])
    blank = np.ones_like(shown.pictures[0])
    for name in sheet.methods:
        ours = {run.edit: kept(folder, run) for run in runs if run.name == name}
        columns[name] = [ours.get(number, blank) for number in sheet.edits]
    return columns


def _change(edit: Edit) -> str:
    before, after = (getattr(scene, edit.kind) for scene in (edit.source, edit.target))
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
        maps = blend.sums[0].amax(0)[0]
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
    trajectory = bench.invert(STEPS, SCHEDULE)
    bench.edit(trajectory, bench.target_prompts, TEXT_SCALES[-1], method.guidance(bench), watched)
    return bench, kept[0].blend


def _at_threshold(blend: Any, threshold: float) -> np.ndarray:
    blend.blend = dataclasses.replace(blend.blend, threshold=threshold)
    return blend.mask(0, (16, 16))[0, 0].numpy()
