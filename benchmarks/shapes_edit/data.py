"""The lists of edits beside this file, one edit a line: scored ones, and others to tune on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from demo_edits import ATTRIBUTES, Edit, draw_edits, draw_pattern_edits, scenes

WORD_KINDS = ("colour", "shape", "background")
KINDS = (*WORD_KINDS, "pattern")
_PATTERNS_APART = 10
FOLDER = Path(__file__).resolve().parent
# Name of the list: (edits, seed). No scene of the training is drawn with these seeds.
SPLITS = {"edits": (120, 20_270_201), "tuning": (32, 20_270_202)}


def draw() -> None:
    """Writes both lists anew, the same ones each time."""
    for name, (count, seed) in SPLITS.items():
        # The kinds in turn as long as there are three, then all edits of the fourth.
        words = count * len(WORD_KINDS) // len(KINDS)
        drawn = draw_edits(words, seed, WORD_KINDS)
        drawn += draw_pattern_edits(count - words, seed + _PATTERNS_APART)
        edits = [_rounded(edit) for edit in drawn]
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
        edit = _edit(entry["kind"], scenes.Scene(**fields), entry["becomes"])
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
    return _edit(edit.kind, scenes.Scene(**short), getattr(edit.target, edit.attribute))


def _edit(kind: str, source: scenes.Scene, becomes: str) -> Edit:
    return Edit(kind, source, scenes.edit(source, ATTRIBUTES.get(kind, kind), becomes))


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
        "becomes": getattr(edit.target, edit.attribute),
        "scene": {key: list(v) if isinstance(v, tuple) else v for key, v in scene.items()},
    }
