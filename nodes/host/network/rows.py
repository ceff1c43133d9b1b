"""Processed conditions of several prompts as rows of one, where they are built alike."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import comfy.conds
import torch
from comfy.utils import repeat_to_batch_size

from ....nmg_sampler import InvalidInput
from .conditions import Condition

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
# What a ControlNet makes of its own settings while it runs.
_WORKING = {"cond_hint", "control_input", "multigpu_clones", "previous_controlnet"}


class Pair(NamedTuple):
    """A prompt and the unconditional one beside it, as the host processes the two together."""

    text: list[Condition]
    negative: list[Condition] | None = None


class Group(NamedTuple):
    """Prompts of branches that one call can take."""

    rows: slice  # theirs, among the rows of the branches asked for
    pair: Pair


def difference(one: Pair, other: Pair) -> str | None:
    """Why two prompts cannot be rows of one prediction; None where they can."""
    found = _of_lists(one.text, other.text)
    if found is None and one.negative is not None and other.negative is not None:
        found = _of_lists(one.negative, other.negative)
    return found


def group_alike(
    pairs: Sequence[Pair], pictures: int, several_negatives: bool = False
) -> list[Group]:
    """Prompts of branches one after the other in as few groups as can be, their order kept.

    Args:
        several_negatives: whether each has an unconditional prompt of its own.
    """
    groups: list[list[Pair]] = []
    for pair in pairs:
        if groups and difference(groups[-1][0], pair) is None:
            groups[-1].append(pair)
        else:
            groups.append([pair])
    made: list[Group] = []
    start = 0
    for group in groups:
        end = start + len(group) * pictures
        made.append(Group(slice(start, end), _stack(group, pictures, several_negatives)))
        start = end
    return made


def _stack(pairs: Sequence[Pair], pictures: int, several_negatives: bool) -> Pair:
    """Prompts between which there is no `difference` as one, `pictures` rows for each."""
    if len(pairs) == 1:
        return pairs[0]
    whole = [slice(None)] * len(pairs)

    def as_one(prompts: Sequence[list[Condition]]) -> list[Condition]:
        return [_stacked(parts, whole, pictures) for parts in zip(*prompts, strict=True)]

    negative = pairs[0].negative
    if several_negatives:
        negative = as_one([pair.negative or [] for pair in pairs])
    return Pair(as_one([pair.text for pair in pairs]), negative)


def one_each(prompts: Sequence[list[Condition]], name: str) -> list[Condition]:
    """Prompts of as many pictures as one: a row of each.

    Raises:
        InvalidInput: they are not built alike.
    """
    for prompt in prompts[1:]:
        found = _of_lists(prompts[0], prompt)
        if found is not None:
            raise InvalidInput.of(
                name,
                "has a prompt for each picture, and these are not built alike",
                found,
                "prompts of one length, with the same nodes after the text",
                "Edit one picture at a time, or make the prompts equally long.",
            )
    own = [slice(place, place + 1) for place in range(len(prompts))]
    return [_stacked(parts, own, len(prompts)) for parts in zip(*prompts, strict=True)]


def check_alike(pairs: Sequence[Pair]) -> None:
    """Raises InvalidInput unless source and targets can be rows of one prediction."""
    for pair in pairs:
        if len(pair.text) != 1:
            raise unlike(f"{len(pair.text)} parts")
        found = difference(pairs[0], pair)
        if found is not None:
            raise unlike(found)


def unlike(got: str) -> InvalidInput:
    """The error of a source and a target prompt that cannot be one prediction."""
    return InvalidInput.of(
        "positive",
        "is not built like the source prompt of the trajectory, but an editor runs both at once",
        got,
        "one part on both, with the same area, mask, range, ControlNet and hooks",
        "Give NMG Invert's positive and NMG Sample's positive the same nodes after the text.",
    )


def _of_lists(one: list[Condition], other: list[Condition]) -> str | None:
    if len(one) != len(other):
        return f"{len(other)} parts against {len(one)}"
    found = (_of_parts(*parts) for parts in zip(one, other, strict=True))
    return next(filter(None, found), None)


def placed_differently(one: Condition, other: Condition) -> str | None:
    """Why two parts cannot be rows of one by where and when they apply; None where they can."""
    for key in _SHARED:
        if not comfy.conds.is_equal(one.get(key), other.get(key)):
            return f"another '{key}'"
    if one.get("hooks") is not other.get("hooks"):
        return "other hooks"
    if not _same_control(one.get("control"), other.get("control")):
        return "another ControlNet, or one of them without"
    return None


def _of_parts(one: Condition, other: Condition) -> str | None:
    found = placed_differently(one, other)
    if found is not None:
        return found
    theirs, ours = one["model_conds"], other["model_conds"]
    if theirs.keys() != ours.keys():
        return f"'{', '.join(sorted(theirs.keys() ^ ours.keys()))}' on one of them"
    different = (name for name in ours if not _can_stack(theirs[name], ours[name]))
    return next((f"another '{name}', or another shape of it" for name in different), None)


def _same_control(one: Any, other: Any) -> bool:
    """Whether two ControlNets, and those before them, do the same."""
    if one is other:
        return True
    if one is None or other is None or type(one) is not type(other):
        return False
    ours, theirs = ({k: v for k, v in vars(c).items() if k not in _WORKING} for c in (one, other))
    same = ours.keys() == theirs.keys() and all(
        ours[key] is theirs[key] or comfy.conds.is_equal(ours[key], theirs[key]) for key in ours
    )
    return same and _same_control(one.previous_controlnet, other.previous_controlnet)


def _can_stack(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    contents = one.cond, other.cond
    if all(isinstance(content, torch.Tensor) for content in contents):
        first, second = contents
        if first.ndim == 0 or first.ndim != second.ndim:
            return comfy.conds.is_equal(first, second)
        # Through cross-attention prompts of unequal length can be repeated to one.
        free = 2 if isinstance(one, comfy.conds.CONDCrossAttn) else 1
        return first.shape[free:] == second.shape[free:]
    if isinstance(one, comfy.conds.CONDList):
        return len(contents[0]) == len(contents[1]) and all(
            first.shape[1:] == second.shape[1:] for first, second in zip(*contents, strict=True)
        )
    return comfy.conds.is_equal(*contents)


def _stacked(parts: Sequence[Condition], rows: Sequence[slice], pictures: int) -> Condition:
    values = {
        name: _rows_of([part["model_conds"][name] for part in parts], rows, pictures)
        for name in parts[0]["model_conds"]
    }
    return {**parts[0], "model_conds": values}


def _rows_of(values: Sequence[Any], rows: Sequence[slice], pictures: int) -> Any:
    """Of each value `rows` of what it is for `pictures`, one after the other."""
    content = values[0].cond
    kind = type(values[0])
    if isinstance(content, torch.Tensor):
        if content.ndim == 0:
            return values[0]
        cut = [
            kind(repeat_to_batch_size(value.cond, pictures)[where])
            for value, where in zip(values, rows, strict=True)
        ]
    elif isinstance(values[0], comfy.conds.CONDList):
        cut = [
            kind([repeat_to_batch_size(each, pictures)[where] for each in value.cond])
            for value, where in zip(values, rows, strict=True)
        ]
    else:
        return values[0]
    # The host's own way: prompts of unequal length are repeated to one, which changes no result.
    return kind(cut[0].concat(cut[1:]))
