"""ShapesEdit: edits of the demo model's scenes with true answers, under every method and editor.

    python tools/run.py benchmarks/shapes_edit.py              measure what is missing, then report
    python tools/run.py benchmarks/shapes_edit.py --quick      a few edits, into output/
    python tools/run.py benchmarks/shapes_edit.py --tune       try settings on the tuning split
    python tools/run.py benchmarks/shapes_edit.py --draw       write the lists of edits anew
    python tools/run.py benchmarks/shapes_edit.py --readme     draw the picture of the README

It measures in two processes, one core each, and resumes where it was stopped. The report goes to
docs/benchmark/, the explanation is docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from demo_edits import root
from shapes_edit import data, report, sheets, tuning
from shapes_edit.measure import Run, key_of, measure_all, merge, read, runs_of
from shapes_edit.methods import METHODS, TEXT_SCALES

PROCESSES = 2
DOCS = root / "docs" / "benchmark"
WORK = root / "output" / "shapes_edit"
PICTURES = WORK / "pictures"
QUICK_EDITS, QUICK_SCALES = 6, TEXT_SCALES[-1:]
SHEET_EDITS = (0, 3, 6, 1, 4, 7, 2, 5)
BLEND_EDITS = (0, 1, 2)
README_EDITS = (0, 1, 4, 2)
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
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--report", action="store_true", help="report what is measured, no more")
    parser.add_argument("--part", help="measure every n-th edit only: i/n; no report")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> tuple[str, list[Run], Path, str]:
    """(list of edits, runs, folder, stem of the file of measurements)."""
    if arguments.tune:
        count = data.SPLITS["tuning"][0]
        runs = runs_of(range(count), tuning.grid(), (tuning.TEXT_SCALE,))
        return "tuning", runs, DOCS, "tuning"
    count = QUICK_EDITS if arguments.quick else data.SPLITS["edits"][0]
    scales = QUICK_SCALES if arguments.quick else TEXT_SCALES
    folder = WORK if arguments.quick else DOCS
    return "edits", runs_of(range(count), METHODS, scales), folder, "measurements"


def _measure_part(arguments: argparse.Namespace, part: int, parts: int) -> None:
    split, runs, folder, stem = _plan(arguments)
    done = {key_of(line) for line in read(folder, stem)}
    missing = [run for run in runs if run.edit % parts == part and run.key not in done]
    path = folder / f"{stem}-{part}-of-{parts}.jsonl"
    pictures = None if arguments.tune else PICTURES
    measure_all(data.load(split), missing, path, pictures, place=part)


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
    table = report.summarise(lines)
    report.write_csv(table, folder / "results.csv")
    report.write_markdown(lines, table, edits, folder / "tables.md")
    report.plot_tradeoff(table, folder / "tradeoff.png")
    shown = SHEET_EDITS[::4] if arguments.quick else SHEET_EDITS
    sheet = sheets.Sheet(shown, METHODS, TEXT_SCALES[-1])
    sheets.draw_sheet(edits, sheet, PICTURES, folder / "contact.png", colours=256)
    if not arguments.quick:
        blending = METHODS["P2P + NMG 5, tuned, blend"]
        sheets.draw_blend(edits, BLEND_EDITS, blending, folder / "blend.png")


def _readme() -> None:
    methods = {label: METHODS[name] for label, name in README_METHODS.items()}
    sheet = sheets.Sheet(README_EDITS, methods, TEXT_SCALES[-1], with_target=False)
    path = root / "docs" / "images" / "editors.png"
    sheets.draw_sheet(data.load("edits"), sheet, PICTURES, path, colours=256)


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
