"""The lists of edits beside this file, one edit a line: scored ones, and others to tune on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from demo_edits import Edit, draw_edits, scenes

KINDS = ("colour", "shape", "background")
FOLDER = Path(__file__).resolve().parent
# Name of the list: (edits, seed). No scene of the training is drawn with these seeds.
SPLITS = {"edits": (120, 20_270_201), "tuning": (24, 20_270_202)}


def draw() -> None:
    """Writes both lists anew, the same ones each time."""
    for name, (count, seed) in SPLITS.items():
        edits = [_rounded(edit) for edit in draw_edits(count, seed, KINDS)]
        lines = ",\n".join(json.dumps(_entry(edit)) for edit in edits)
        _path(name).write_text(f"[\n{lines}\n]\n")


def load(name: str) -> list[Edit]:
    """The edits of one list.

    Raises:
        ValueError: its captions are not those that `demo/scenes.py` gives to its scenes.
    """
    edits = []
    for entry in json.loads(_path(name).read_text()):
        fields = {key: tuple(v) if isinstance(v, list) else v for key, v in entry["scene"].items()}
        source = scenes.Scene(**fields)
        edit = Edit(entry["kind"], source, scenes.edit(source, entry["kind"], entry["becomes"]))
        if _entry(edit) != entry:
            raise ValueError(
                f"load: {_path(name).name} is out of date. Got {entry['target']!r}; expected"
                f" {scenes.caption(edit.target)!r}. Run benchmarks/shapes_edit.py --draw."
            )
        edits.append(edit)
    return edits


def _path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _rounded(edit: Edit) -> Edit:
    """The edit with the numbers of its scenes as short as the list keeps them."""
    fields = dataclasses.asdict(edit.source)
    short = {key: _short(value) for key, value in fields.items()}
    source = scenes.Scene(**short)
    return Edit(edit.kind, source, scenes.edit(source, edit.kind, getattr(edit.target, edit.kind)))


def _short(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_short, value))
    return round(value, 3) if isinstance(value, float) else value


def _entry(edit: Edit) -> dict:
    scene = dataclasses.asdict(edit.source)
    return {
        "kind": edit.kind,
        "source": scenes.caption(edit.source),
        "target": scenes.caption(edit.target),
        "becomes": getattr(edit.target, edit.kind),
        "scene": {key: list(v) if isinstance(v, tuple) else v for key, v in scene.items()},
    }
