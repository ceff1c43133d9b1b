"""Running methods on edits, and what is measured of each run: one line of a file per run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_edits import Bench, Edit, Sampled, checkers, psnr
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity
from tqdm import tqdm

from shapes_edit.holds import COUNTS
from shapes_edit.methods import STRONG, Method

# What a window of the structural similarity looks at around its centre, pixels.
_WINDOW_REACH = 3
# Without an editor there is no source branch: the picture is sampled once more, for some edits.
RECONSTRUCTED_EVERY = 8
ATTRIBUTES = ("shape", "colour", "background", "background_type")


@dataclass(frozen=True)
class Run:
    """One method on one edit at one text scale."""

    edit: int  # number in its list
    name: str
    method: Method
    text_scale: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.edit, self.name, self.method.mark, self.text_scale


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """The key of the run that a line of the file is about."""
    return line["edit"], line["method"], line["settings"], line["text_scale"]


def runs_of(edits: Iterable[int], methods: dict[str, Method]) -> list[Run]:
    """All runs, edit after edit, so that what methods share is made once."""
    return [
        Run(edit, name, method, text_scale)
        for edit in edits
        for name, method in methods.items()
        for text_scale, every in method.every.items()
        if edit % every == 0
    ]


def measure_all(
    edits: list[Edit], runs: list[Run], path: Path, pictures: Path | None = None, place: int = 0
) -> None:
    """Appends a line to the file at `path` for each run.

    Args:
        edits: the list that the runs count in.
        runs: edit after edit.
        path: of JSON lines.
        pictures: folder in which what the runs made is kept as well; or None.
        place: row of the progress bar on the screen.
    """
    with path.open("a") as file:
        for run, bench, sampled in carried_out(edits, runs, place):
            if pictures is not None:
                keep(pictures, run, sampled.pictures[0])
            file.write(json.dumps(measured(bench, run, sampled)) + "\n")
            file.flush()


def keep(folder: Path, run: Run, picture: np.ndarray) -> None:
    """Saves what a run made, where `kept` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * picture + 0.5).astype(np.uint8)).save(_kept_path(folder, run))


def kept(folder: Path, run: Run) -> np.ndarray | None:
    """What a run made, (128, 128, 3) in 0..1, if it was kept."""
    path = _kept_path(folder, run)
    return np.asarray(Image.open(path), np.float32) / 255 if path.is_file() else None


def _kept_path(folder: Path, run: Run) -> Path:
    return folder / f"{run.edit:03}-{run.method.mark}-{run.text_scale:g}.png"


def carried_out(
    edits: list[Edit], runs: list[Run], place: int = 0
) -> Iterator[tuple[Run, Bench, Sampled]]:
    """Each run's bench and what it made."""
    current, bench = None, None
    for run in tqdm(runs, unit="run", position=place, mininterval=2):
        if run.edit != current:
            current, bench = run.edit, Bench([edits[run.edit]])
        yield run, bench, carry_out(bench, run)


def carry_out(bench: Bench, run: Run) -> Sampled:
    """The edit that the method makes, at the cost of all of it but a plain inversion."""
    (edit,) = bench.edits
    editor = None if run.method.editor is None else run.method.editor(bench, edit)
    held = run.method.holds(bench)
    prompts = run.method.prompts(bench, edit)
    # What the processor did for it: unlike the time on the clock, the same on a busy machine.
    started = time.process_time()
    sampled = bench.edit(held.trajectory, prompts, run.text_scale, held.guidance, editor, held.mask)
    sampled.cost["core_seconds"] = time.process_time() - started
    for name in COUNTS:
        sampled.cost[name] = round(sampled.cost[name] + held.cost.get(name, 0), 3)
    return sampled


def reconstruction(bench: Bench, run: Run) -> np.ndarray:
    """What a method without an editor makes of the source prompt, (128, 128, 3) in 0..1."""
    held = run.method.holds(bench)
    return bench.edit(
        held.trajectory, bench.source_prompts, run.text_scale, held.guidance, None, held.mask
    ).pictures[0]


def measured(bench: Bench, run: Run, sampled: Sampled) -> dict[str, Any]:
    """The line of one run. References are what the VAE makes of the true pictures."""
    (edit,), (picture,) = bench.edits, sampled.pictures
    before, after = bench.round_trip[0], bench.true_targets[0]
    figures = {
        **words_read(picture, edit),
        **outside_figures(before, picture, ~edit.may_change),
        "inside_psnr": psnr(after[edit.may_change], picture[edit.may_change]),
        "target_psnr": psnr(after, picture),
    }
    source = None if run.method.editor is None else sampled.source[0]
    if source is None and run.text_scale == STRONG and run.edit % RECONSTRUCTED_EVERY == 0:
        source = reconstruction(bench, run)
    if source is not None:
        figures["source_psnr"] = psnr(before, source)
        figures["source_ssim"] = ssim_map(before, source).mean()
    return {
        "edit": run.edit,
        "kind": edit.kind,
        "method": run.name,
        "settings": run.method.mark,
        "text_scale": run.text_scale,
        **{name: round(float(value), 5) for name, value in figures.items()},
        **sampled.cost,
    }


def words_read(picture: np.ndarray, edit: Edit) -> dict[str, float]:
    """Whether the changed word, and every word of the target scene, can be read from the picture.

    The reading does not know where the object was: one that moved can still have its new colour.
    """
    reading = checkers.read_scene(picture)
    right = {name: getattr(reading, name) == getattr(edit.target, name) for name in ATTRIBUTES}
    return {"success": float(right[edit.attribute]), "all_words": float(all(right.values()))}


def outside_figures(before: np.ndarray, picture: np.ndarray, stays: np.ndarray) -> dict[str, Any]:
    """How well the pixels `stays` (128, 128) bool are kept."""
    # Only windows that see nothing of what may change.
    whole = ndimage.binary_erosion(
        stays, np.ones((3, 3)), iterations=_WINDOW_REACH, border_value=True
    )
    return {
        "outside_psnr": psnr(before[stays], picture[stays]),
        "outside_mse": np.square(before[stays] - picture[stays]).mean(),
        "outside_ssim": ssim_map(before, picture)[whole].mean() if whole.any() else np.nan,
    }


def ssim_map(true: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Structural similarity of the window round each pixel, (128, 128)."""
    _, similarity = structural_similarity(
        true, test, win_size=2 * _WINDOW_REACH + 1, channel_axis=-1, data_range=1.0, full=True
    )
    return similarity.mean(-1)


def read(folder: Path, stem: str) -> list[dict[str, Any]]:
    """Lines measured so far, in one file or in parts."""
    files = sorted(folder.glob(f"{stem}*.jsonl"))
    return [json.loads(line) for file in files for line in file.open()]


def merge(folder: Path, stem: str, runs: list[Run]) -> list[dict[str, Any]]:
    """One file in the order of the runs in the place of its parts; without lines of other runs."""
    found = {key_of(line): line for line in read(folder, stem)}
    lines = [found[run.key] for run in runs if run.key in found]
    for part in folder.glob(f"{stem}-*.jsonl"):
        part.unlink()
    (folder / f"{stem}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines
