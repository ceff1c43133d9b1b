"""What plain DDIM and Noise Map Guidance reconstruct and edit on the demo model.

    python tools/run.py benchmarks/first_results.py            measure what is missing, then report
    python tools/run.py benchmarks/first_results.py --part 0/2   one of two processes measuring

Every measurement is one line of a file, so the run resumes where it was stopped; the report goes to
docs/first-results/. Scenes have a fixed seed and are none of the
training's. PSNR is against the VAE round trip of the picture: it is the method's error alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from demo_edits import Bench, draw_edits, psnr, root
from scipy.stats import bootstrap
from tqdm import tqdm

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SEED = 20_270_101
TEXT_SCALES = (3.0, 5.0, 7.5, 10.0)
SCALES = {"fused": (0.5, 1.5, 5.0), "official": (1.0, 3.0)}
PAPER_SCALE = 10.0
PUBLISHED, DESTINATION = "official", "official-masactrl"
GRADIENT_SCALE = 5000.0
TASKS = ("reconstruct", "edit")


@dataclass(frozen=True)
class Setting:
    """One method at one strength; noise_map_scale 0 is DDIM with text guidance alone."""

    mode: str
    gradient: str
    noise_map_scale: float
    text_scale: float
    task: str
    schedule: str

    @property
    def method(self) -> str:
        if self.noise_map_scale == 0:
            return "DDIM + CFG"
        return f"NMG {self.mode}, {self.gradient}"


def settings() -> Iterator[Setting]:
    """All settings, what matters most first."""

    def grid(
        mode: str, gradient: str, scales: tuple[float, ...], schedule: str
    ) -> Iterator[Setting]:
        for scale in scales:
            for text_scale in TEXT_SCALES:
                for task in TASKS:
                    yield Setting(mode, gradient, scale, text_scale, task, schedule)

    weak, middle, strong = SCALES["fused"]
    yield from grid("fused", "direct", (0.0, middle, strong), DESTINATION)
    yield from grid("official", "full", (PAPER_SCALE,), PUBLISHED)
    yield from grid("fused", "full", (middle,), DESTINATION)
    yield from grid("official", "direct", (PAPER_SCALE,), PUBLISHED)
    yield from grid("official", "full", SCALES["official"], PUBLISHED)
    yield from grid("official", "direct", SCALES["official"], PUBLISHED)
    yield from grid("fused", "full", (weak, strong), DESTINATION)
    yield from grid("fused", "direct", (0.0, *SCALES["fused"]), PUBLISHED)
    yield from grid("fused", "direct", (weak,), DESTINATION)


def make_guidance(bench: Bench, setting: Setting) -> Any:
    """The setting's method, made by NMG Guidance."""
    return bench.nodes.NMGGuidance.execute(
        setting.mode, setting.gradient, "l1", "auto", setting.noise_map_scale, GRADIENT_SCALE, 0, 1
    ).args[0]


def measure(bench: Bench, trajectory: Any, setting: Setting) -> dict[str, Any]:
    """One line of the results: figures per picture, and the cost of the run."""
    guidance = make_guidance(bench, setting)
    reconstructs = setting.task == "reconstruct"
    prompts = bench.source_prompts if reconstructs else bench.target_prompts
    pictures, cost = bench.sample(trajectory, prompts, setting.text_scale, guidance)
    figures: dict[str, list[float]] = {}
    if reconstructs:
        figures["psnr"] = _each(psnr, bench.round_trip, pictures)
    else:
        stays = [~edit.may_change for edit in bench.edits]
        figures["outside_psnr"] = [
            psnr(true[stay], test[stay])
            for true, test, stay in zip(bench.round_trip, pictures, stays, strict=True)
        ]
        figures["success"] = [
            float(edit.succeeded(picture))
            for edit, picture in zip(bench.edits, pictures, strict=True)
        ]
    return {**asdict(setting), **figures, "cost": cost}


def _each(function: Any, first: np.ndarray, second: np.ndarray) -> list[float]:
    return [function(a, b) for a, b in zip(first, second, strict=True)]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean with its 95 % bootstrap interval."""
    data = np.asarray(values, float)
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0]), float(data[0])
    result = bootstrap((data,), np.mean, rng=np.random.default_rng(0), method="percentile")
    low, high = result.confidence_interval
    return float(data.mean()), float(low), float(high)


def summarise(rows: list[dict[str, Any]], kinds: list[str]) -> list[dict[str, Any]]:
    """One table row per setting: means with intervals, edits split by kind."""
    table = []
    for row in rows:
        setting = Setting(**{name: row[name] for name in Setting.__dataclass_fields__})
        line = {"method": setting.method, **asdict(setting)}
        if setting.task == "reconstruct":
            line |= _named("psnr", interval(row["psnr"]))
        else:
            for kind in ("colour", "background"):
                chosen = [index for index, name in enumerate(kinds) if name == kind]
                for figure in ("success", "outside_psnr"):
                    values = [row[figure][index] for index in chosen]
                    line |= _named(f"{kind}_{figure}", interval(values))
        table.append(line | {"seconds": row["cost"]["seconds"]})
    return table


def _named(name: str, values: tuple[float, float, float]) -> dict[str, str]:
    mean, low, high = values
    return {name: f"{mean:.3f}", f"{name}_low": f"{low:.3f}", f"{name}_high": f"{high:.3f}"}


def write_csv(table: list[dict[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(name for line in table for name in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(table)


def write_markdown(table: list[dict[str, Any]], path: Path) -> None:
    """Three tables, a row per method, schedule and strength, a column per text scale."""
    parts = [
        _markdown(table, "reconstruct", "Reconstruction, dB", lambda line: _cell(line, "psnr"))
    ]
    for kind in ("colour", "background"):
        title = f"{kind.capitalize()} edits: success, and dB outside the mask"
        parts.append(
            _markdown(
                table,
                "edit",
                title,
                lambda line, kind=kind: (
                    f"{float(line[f'{kind}_success']):.2f}, {_cell(line, f'{kind}_outside_psnr')}"
                ),
            )
        )
    path.write_text("\n\n".join(parts) + "\n")


def _cell(line: dict[str, Any], name: str) -> str:
    mean, low, high = (float(line[name + end]) for end in ("", "_low", "_high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _markdown(
    table: list[dict[str, Any]], task: str, title: str, cell: Callable[[dict[str, Any]], str]
) -> str:
    scales = " | ".join(f"text scale {scale:g}" for scale in TEXT_SCALES)
    lines = [f"### {title}", "", f"| method | schedule | noise map scale | {scales} |"]
    lines.append("|---" * (3 + len(TEXT_SCALES)) + "|")
    for keys, found in _curves(table, task, ("method", "schedule", "noise_map_scale")):
        cells = {line["text_scale"]: cell(line) for line in found}
        row = [keys[0], keys[1], f"{keys[2]:g}", *(cells.get(scale, "") for scale in TEXT_SCALES)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def plot_reconstruction(table: list[dict[str, Any]], path: Path) -> None:
    """Reconstruction PSNR over text scale, one line per method, schedule and strength."""
    figure, axes = plt.subplots(figsize=(8, 4.6))
    for (method, schedule, scale), lines in _curves(
        table, "reconstruct", ("method", "schedule", "noise_map_scale")
    ):
        strength = "" if scale == 0 else f", scale {scale:g}"
        points = sorted((line["text_scale"], float(line["psnr"])) for line in lines)
        style = _style(method, schedule) | {"alpha": min(1.0, 0.45 + 0.11 * scale)}
        axes.plot(*zip(*points, strict=True), label=f"{method}{strength} ({schedule})", **style)
    axes.set(xlabel="text scale", ylabel="reconstruction PSNR, dB")
    axes.legend(fontsize=6, ncols=2)
    _finish(figure, axes, path)


def plot_edits(table: list[dict[str, Any]], kind: str, path: Path) -> None:
    """PSNR outside the true mask over edit success: a curve over the noise map scale."""
    figure, all_axes = plt.subplots(1, len(TEXT_SCALES), figsize=(14, 4), sharey=True)
    for axes, text_scale in zip(all_axes, TEXT_SCALES, strict=True):
        chosen = [line for line in table if line["text_scale"] == text_scale]
        for (method, schedule), lines in _curves(chosen, "edit", ("method", "schedule")):
            points = sorted(
                (
                    line["noise_map_scale"],
                    float(line[f"{kind}_success"]),
                    float(line[f"{kind}_outside_psnr"]),
                )
                for line in lines
            )
            scales, success, outside = zip(*points, strict=True)
            axes.plot(success, outside, label=f"{method} ({schedule})", **_style(method, schedule))
            for x, y, scale in zip(success, outside, scales, strict=True):
                axes.annotate(f"{scale:g}", (x, y), fontsize=6)
        axes.set(title=f"text scale {text_scale:g}", xlabel="edit success", xlim=(-0.05, 1.1))
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(f"PSNR outside the mask, dB ({kind} edits)")
    all_axes[0].legend(fontsize=6)
    _finish(figure, all_axes[-1], path)


def _curves(
    table: list[dict[str, Any]], task: str, keys: tuple[str, ...]
) -> list[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in table:
        if line["task"] == task:
            found.setdefault(tuple(line[key] for key in keys), []).append(line)
    return sorted(found.items())


def _style(method: str, schedule: str) -> dict[str, Any]:
    """Colour: the method. Dashes: the full gradient. Small hollow marks: the published schedule."""
    colours = {"DDIM + CFG": "black", "fused": "tab:blue", "official": "tab:red"}
    colour = next(value for key, value in colours.items() if key in method)
    hollow = {"markerfacecolor": "white"} if schedule == PUBLISHED else {}
    dashes = "--" if "full" in method else "-"
    return {"color": colour, "marker": "o", "markersize": 5, "linestyle": dashes, **hollow}


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def contact_sheet(bench: Bench, steps: int, text_scale: float, path: Path) -> None:
    """Eight edits: picture, DDIM + CFG, and noise map guidance from weak to strong."""
    columns: list[tuple[str, np.ndarray]] = [("picture", bench.pictures)]
    invert = lru_cache(partial(bench.invert, steps))
    for mode, gradient, scale, schedule in (
        ("fused", "direct", 0.0, DESTINATION),
        *[("fused", "direct", scale, DESTINATION) for scale in SCALES["fused"]],
        ("official", "full", PAPER_SCALE, PUBLISHED),
    ):
        setting = Setting(mode, gradient, scale, text_scale, "edit", schedule)
        guidance = make_guidance(bench, setting)
        pictures, _ = bench.sample(invert(schedule), bench.target_prompts, text_scale, guidance)
        label = setting.method if scale == 0 else f"{setting.method}\nscale {scale:g}"
        columns.append((label, pictures))
    draw_sheet(bench, columns, path)


def draw_sheet(bench: Bench, columns: list[tuple[str, np.ndarray]], path: Path) -> None:
    """A grid of pictures: a row per edit, a labelled column per method."""
    rows = len(bench.edits)
    figure, all_axes = plt.subplots(rows, len(columns), figsize=(1.5 * len(columns), 1.55 * rows))
    for column, (label, pictures) in enumerate(columns):
        for row, edit in enumerate(bench.edits):
            axes = all_axes[row, column]
            axes.imshow(pictures[row])
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(label, fontsize=7)
            if column == 0:
                before = getattr(edit.source, edit.kind)
                after = getattr(edit.target, edit.kind)
                axes.set_ylabel(f"{edit.kind}\n{before} -> {after}", fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def read(folder: Path) -> dict[Setting, dict[str, Any]]:
    """What was measured so far."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.open()]
    rows = [json.loads(line) for line in lines]
    names = Setting.__dataclass_fields__
    return {Setting(**{name: row[name] for name in names}): row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--part", default="0/1", help="measure every n-th setting only: i/n")
    parser.add_argument("--work", type=Path, default=root / "docs" / "first-results")
    parser.add_argument("--report", action="store_true", help="report what is measured, no more")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    edits = draw_edits(arguments.scenes, SEED)
    if not arguments.report:
        bench = Bench(edits)
        invert = lru_cache(partial(bench.invert, arguments.steps))
        open_settings = [s for s in list(settings())[part::parts] if s not in read(arguments.work)]
        name = "measurements" if parts == 1 else f"measurements-{part}-of-{parts}"
        with (arguments.work / f"{name}.jsonl").open("a") as file:
            for setting in tqdm(open_settings, unit="setting", mininterval=10):
                row = measure(bench, invert(setting.schedule), setting)
                file.write(json.dumps(row) + "\n")
                file.flush()
    if parts == 1:
        report(arguments, edits)


def report(arguments: argparse.Namespace, edits: list[Any]) -> None:
    """Table, curves and contact sheet into docs/."""
    docs = root / "docs" / "first-results"
    docs.mkdir(parents=True, exist_ok=True)
    done = read(arguments.work)
    rows = [done[s] for s in dict.fromkeys(settings()) if s in done]
    table = summarise(rows, [edit.kind for edit in edits])
    write_csv(table, docs / "results.csv")
    write_markdown(table, docs / "tables.md")
    plot_reconstruction(table, docs / "reconstruction.png")
    for kind in ("colour", "background"):
        plot_edits(table, kind, docs / f"{kind}.png")
    few = Bench(edits[:8])
    contact_sheet(few, arguments.steps, 3.0, docs / "edits.png")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
