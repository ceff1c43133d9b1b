"""The prompts of all branches as one condition of the host: one row per picture and prompt."""

from typing import Any

import comfy.conds
import torch
from comfy.utils import repeat_to_batch_size

from ....nmg_sampler import Branches, InvalidInput
from .conditions import Condition, Conditioning

# Where and when a prompt applies: one row cannot differ from another in these. Everything else that
# a node puts on a prompt goes into `model_conds`, which have rows of their own.
_SHARED = (
    "area",
    "clip_end_percent",
    "clip_start_percent",
    "default",
    "end_percent",
    "gligen",
    "mask",
    "mask_strength",
    "set_area_to_bounds",
    "start_percent",
    "strength",
    "timestep_end",
    "timestep_start",
)


def count_targets(positive: Conditioning, pictures: int) -> int:
    """How many target prompts a CONDITIONING holds for a batch of `pictures`.

    One row is a prompt for all pictures, `pictures` rows are one prompt for each; otherwise the
    rows are as many edits of the one picture, or of each picture, target after target.

    Raises:
        InvalidInput: the rows fit none of these.
    """
    rows = max(len(embedding) for embedding, *_ in positive)
    if rows in (1, pictures):
        return 1
    if pictures == 1 or rows % pictures == 0:
        return rows // pictures
    raise InvalidInput.of(
        "positive",
        "has prompts that do not fit the pictures",
        f"{rows} prompts for {pictures} pictures",
        f"1, {pictures}, or a multiple of {pictures} prompts",
        "Encode one prompt, one per picture, or edit one picture at a time.",
    )


def columns_of(*prompts: Conditioning) -> tuple[int, ...]:
    """Length of each prompt in embedding columns."""
    return tuple(prompt[0][0].shape[1] for prompt in prompts)


def merge(source: list[Condition], targets: list[Condition], branches: Branches) -> list[Condition]:
    """The host's processed conditions of source and targets as one list, a row for each branch.

    Raises:
        InvalidInput: the prompts are not built alike, so that rows cannot stand for them.
    """
    if not len(source) == len(targets) == 1:
        raise _unlike(f"{len(targets)} parts against {len(source)}")
    return [_merged(source[0], targets[0], branches)]


def _merged(source: Condition, target: Condition, branches: Branches) -> Condition:
    for key in _SHARED:
        if not comfy.conds.is_equal(source.get(key), target.get(key)):
            raise _unlike(f"another '{key}'")
    if source.get("hooks") is not target.get("hooks"):
        raise _unlike("other hooks")
    if ("control" in source) != ("control" in target):
        raise _unlike("a ControlNet on one of them")
    theirs, ours = source["model_conds"], target["model_conds"]
    if theirs.keys() != ours.keys():
        raise _unlike(f"'{', '.join(sorted(theirs.keys() ^ ours.keys()))}' on one of them")
    rows = branches.pictures, branches.targets * branches.pictures
    return {**target, "model_conds": {k: _stacked(k, theirs[k], ours[k], rows) for k in ours}}


def _stacked(name: str, source: Any, target: Any, rows: tuple[int, int]) -> Any:
    contents = source.cond, target.cond
    if not all(isinstance(content, torch.Tensor) for content in contents):
        if comfy.conds.is_equal(*contents):
            return target
        raise _unlike(f"another '{name}'")
    if contents[0].ndim == 0:
        return target
    repeated = [
        type(each)(repeat_to_batch_size(content, count))
        for each, content, count in zip((source, target), contents, rows, strict=True)
    ]
    first, second = repeated
    if first.cond.shape[2:] != second.cond.shape[2:]:
        raise _unlike(f"another shape of '{name}'")
    # The host's own way: prompts of unequal length are repeated to one, which changes no result.
    return type(target)(first.concat([second]))


def _unlike(got: str) -> InvalidInput:
    return InvalidInput.of(
        "positive",
        "is not built like the source prompt of the trajectory, but an editor runs both at once",
        got,
        "one part on both, with the same area, mask, range, ControlNet and hooks",
        "Give NMG Invert's positive and NMG Sample's positive the same nodes after the text.",
    )


def one_row_per_picture(positive: Conditioning, branches: Branches) -> Conditioning:
    """A CONDITIONING of one row per target as one of a row per target and picture."""
    if branches.pictures == 1 or branches.targets == 1:
        return positive

    def spread(value: Any) -> Any:
        fits = isinstance(value, torch.Tensor) and value.ndim and len(value) == branches.targets
        return value.repeat_interleave(branches.pictures, 0) if fits else value

    pooled = "pooled_output"
    return [
        [spread(embedding), {k: spread(v) if k == pooled else v for k, v in options.items()}]
        for embedding, options in positive
    ]
