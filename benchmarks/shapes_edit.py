"""ShapesEdit: edits of the demo model's scenes with true answers, under every method and editor.

    python tools/run.py benchmarks/shapes_edit.py              every method, into output/
    python tools/run.py benchmarks/shapes_edit.py --thorough   on twice as many edits, for the docs
    python tools/run.py benchmarks/shapes_edit.py --quick      a few edits, into output/
    python tools/run.py benchmarks/shapes_edit.py --sweep      the scales against each other
    python tools/run.py benchmarks/shapes_edit.py --tune       try settings on the tuning split
    python tools/run.py benchmarks/shapes_edit.py --draw       write the lists of edits anew
    python tools/run.py benchmarks/shapes_edit.py --readme     draw the picture of the README

It measures in two processes, one core each, and resumes where it was stopped. The report of
--thorough, --sweep and --tune goes to docs/benchmark/, the explanation is docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from demo_edits import root
from shapes_edit import data, plots, report, sheets, sweeps, tuning
from shapes_edit.holds import null_text
from shapes_edit.measure import Run, key_of, measure_all, merge, read, runs_of
from shapes_edit.methods import HALF, METHODS, STRONG, Method, sparser

PROCESSES = 2
DOCS = root / "docs" / "benchmark"
WORK = root / "output" / "shapes_edit"
PICTURES = WORK / "pictures"
# One of each kind, two for each process; and two of each.
QUICK_EDITS = (0, 40, 8, 96)
SHEET_EDITS = (0, 24, 16, 40, 8, 32, 96, 104)
BLEND_EDITS = (0, 1, 2)
README_EDITS = (0, 24, 16, 8)
README_METHODS = {
    "NMG alone": "NMG 5",
    "Prompt-to-Prompt": "P2P + NMG 5, tuned",
    "+ local blend": "P2P + NMG 5, tuned, blend",
    "MasaCtrl": "MasaCtrl + NMG 5, tuned",
}


def main() -> None:
    arguments = _arguments()
    if arguments.draw:
        data.draw()
    elif arguments.readme:
        _readme()
    elif arguments.part is not None:
        part, parts = map(int, arguments.part.split("/"))
        _measure_part(arguments, part, parts)
    else:
        if not arguments.report:
            _measure_all(arguments)
        _report(arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--report", action="store_true", help="report what is measured, no more")
    parser.add_argument("--part", help="measure that share of the edits only: i/n; no report")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> tuple[str, list[Run], Path, str]:
    """(list of edits, runs, folder, stem of the file of measurements)."""
    if arguments.tune:
        return "tuning", runs_of(range(data.SPLITS["tuning"][0]), tuning.grid()), DOCS, "tuning"
    if arguments.quick:
        return "edits", _quick(runs_of(QUICK_EDITS, METHODS)), WORK, "quick"
    numbers = range(data.SPLITS["edits"][0])
    if arguments.sweep:
        return "edits", runs_of(numbers, sweeps.methods()), DOCS, "sweeps"
    folder = DOCS if arguments.thorough else WORK
    return "edits", runs_of(numbers, _methods(arguments)), folder, "measurements"


def _methods(arguments: argparse.Namespace) -> dict[str, Method]:
    """All of them, each with its share of the edits; in a hurry those that matter most."""
    if arguments.quick:
        return {name: method for name, method in METHODS.items() if _matters(method)}
    return METHODS if arguments.thorough else sparser(METHODS)


def _quick(runs: list[Run]) -> list[Run]:
    """The methods that matter most at one text scale; Null-Text Inversion on the first edit."""
    return [
        run
        for run in runs
        if run.text_scale == STRONG and (_matters(run.method) or _is_first_null_text(run))
    ]


def _matters(method: Method) -> bool:
    return method.every[STRONG] <= HALF[STRONG]


def _is_first_null_text(run: Run) -> bool:
    return run.edit == QUICK_EDITS[0] and run.method.holds.func is null_text


def _measure_part(arguments: argparse.Namespace, part: int, parts: int) -> None:
    split, runs, folder, stem = _plan(arguments)
    done = {key_of(line) for line in read(folder, stem)}
    missing = [run for run in runs if _place(run.edit) % parts == part and run.key not in done]
    path = folder / f"{stem}-{part}-of-{parts}.jsonl"
    pictures = None if arguments.tune else PICTURES
    measure_all(data.load(split), missing, path, pictures, place=part)


def _place(edit: int) -> int:
    """Slow methods are tried on every 8th or 16th edit: each process gets its share of these."""
    return edit // 8 + edit // 16


def _measure_all(arguments: argparse.Namespace) -> None:
    """Starts the processes and waits for them."""
    *_, folder, _ = _plan(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *sys.argv]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, "--part", f"{part}/{PROCESSES}"], env=one_core)
        for part in range(PROCESSES)
    ]
    if any([worker.wait() for worker in workers]):
        sys.exit("A process failed; what it measured is kept. Start the same command again.")


def _report(arguments: argparse.Namespace) -> None:
    split, runs, folder, stem = _plan(arguments)
    edits = data.load(split)
    lines = merge(folder, stem, runs)
    if arguments.tune:
        tuning.write_markdown(lines, folder / "tuning.md")
        return
    if arguments.sweep:
        shown = folder / "sweeps"
        shown.mkdir(exist_ok=True)
        sweeps.draw(lines, edits, PICTURES, shown)
        return
    table = report.summarise(lines)
    report.write_csv(table, folder / "results.csv")
    report.write_markdown(lines, table, edits, folder / "tables.md")
    plots.plot_tradeoff(table, folder / "tradeoff.png")
    shown = QUICK_EDITS if arguments.quick else SHEET_EDITS
    for name, methods in _halves(_methods(arguments)).items():
        path = folder / f"contact-{name}.png"
        sheets.draw_sheet(edits, sheets.Sheet(shown, methods), PICTURES, path, colours=256)
    if not arguments.quick:
        blending = METHODS["P2P + NMG 5, tuned, blend"]
        sheets.draw_blend(edits, BLEND_EDITS, blending, folder / "blend.png")


def _halves(methods: dict[str, Method]) -> dict[str, dict[str, Method]]:
    """The methods alone, and those with an editor."""
    return {
        name: {key: method for key, method in methods.items() if (method.editor is None) == alone}
        for name, alone in (("alone", True), ("editors", False))
    }


def _readme() -> None:
    methods = {label: METHODS[name] for label, name in README_METHODS.items()}
    sheet = sheets.Sheet(README_EDITS, methods, with_target=False)
    path = root / "docs" / "images" / "editors.png"
    sheets.draw_sheet(data.load("edits"), sheet, PICTURES, path, colours=256)


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
