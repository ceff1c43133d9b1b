"""Several prompts on one CONDITIONING wire, and how they are told apart again.

Prompts that are built alike share a part, one row each, which the network takes as it is. Others
are parts of their own with their place on them: nodes of the host that change a prompt change each
part, so that every prompt keeps what is its own (a mask of its tokens, its length).
"""

import math
from collections.abc import Sequence
from typing import Any

import comfy.conds
import torch

from ....nmg_sampler import Branches, InvalidInput
from .conditions import Conditioning

# (place, how many): on every part of one of several prompts.
_PLACE = "nmg_prompt"
WORDS = "nmg_words"  # what a prompt's columns are, a list of one per row
# What else than the embedding has a row per prompt.
_ROWS = ("pooled_output", WORDS)

# The prompts of one branch: one for all pictures, or one for each.
Target = tuple[Conditioning, ...]


def join_prompts(prompts: Sequence[Conditioning]) -> Conditioning:
    """Prompts of one part each as one CONDITIONING."""
    parts = [part for (part,) in prompts]
    if all(_alike(parts[0], part) for part in parts[1:]):
        embedding = torch.cat([embedding for embedding, _ in parts])
        options = parts[0][1]
        rows = {
            key: _joined([each[key] for _, each in parts])
            for key in _ROWS
            if options.get(key) is not None
        }
        return [[embedding, {**options, **rows}]]
    return [
        [embedding, {**options, _PLACE: (place, len(parts))}]
        for place, (embedding, options) in enumerate(parts)
    ]


def targets_of(prompt: Conditioning, pictures: int, name: str = "positive") -> list[Target]:
    """The target prompts in a CONDITIONING for a batch of `pictures`, each as it would be alone.

    One prompt is for all pictures, `pictures` prompts are one for each; otherwise they are as many
    edits of the one picture, or of each picture, target after target.

    Args:
        name: of the input that it came by.

    Raises:
        InvalidInput: they are none of these.
    """
    apart, count = _apart(prompt, name), _count(prompt)
    count = len(apart) or count
    if count not in (1, pictures) and count % pictures:
        raise _unfit(name, count, pictures, f"1, {pictures}, or a multiple of {pictures} prompts")
    targets = 1 if count in (1, pictures) else count // pictures
    if apart:
        each = count // targets
        return [tuple(apart[t * each : (t + 1) * each]) for t in range(targets)]
    odd = {len(embedding) for embedding, *_ in prompt} - {1, count}
    if odd:
        raise _unfit(name, odd.pop(), pictures, f"1 or {count} in every part")
    if targets == 1:
        return [(prompt,)]
    return [(_rows(prompt, slice(t * pictures, (t + 1) * pictures)),) for t in range(targets)]


def one_target(prompt: Conditioning, pictures: int, name: str) -> Target:
    """The prompt of an input that has no edits: one for all pictures, or one for each.

    Raises:
        InvalidInput: there are more, or fewer.
    """
    return _beside(prompt, pictures, 1, name)[0]


def negatives_of(prompt: Conditioning, branches: Branches) -> list[Target]:
    """The unconditional prompt of all branches, or without a source branch one of each edit.

    Raises:
        InvalidInput: there are more, or fewer.
    """
    edits = 1 if branches.with_source else branches.targets
    return _beside(prompt, branches.pictures, edits, "negative")


def _beside(prompt: Conditioning, pictures: int, edits: int, name: str) -> list[Target]:
    count = len(_apart(prompt, name)) or _count(prompt)
    allowed = sorted({1, pictures, pictures * edits})
    if count not in allowed:
        raise _unfit(name, count, pictures, " or ".join(map(str, allowed)))
    return targets_of(prompt, pictures, name)


def _count(prompt: Conditioning) -> int:
    return max(len(embedding) for embedding, *_ in prompt)


def columns_of(target: Target) -> int:
    """Length of a branch's prompt in embedding columns; of one for each picture as rows have it."""
    return math.lcm(*(prompt[0][0].shape[1] for prompt in target))


def _unfit(name: str, count: int, pictures: int, expected: str) -> InvalidInput:
    return InvalidInput.of(
        name,
        "has prompts that do not fit the pictures",
        f"{count} prompt{'s' * (count > 1)} for {pictures} picture{'s' * (pictures > 1)}",
        expected,
        "Encode one prompt for all, or one for each.",
    )


def _apart(prompt: Conditioning, name: str) -> list[Conditioning]:
    """The prompts whose parts have a place, in order, with a row each of other parts; or none."""
    counts = {options[_PLACE][1] for _, options in prompt if _PLACE in options}
    if not counts:
        return []
    counts |= {len(e) for e, options in prompt if _PLACE not in options} - {1}
    if len(counts) > 1:
        raise InvalidInput.of(
            name,
            "combines prompts that are not as many",
            " and ".join(map(str, sorted(counts))),
            "as many on both",
            "Give both NMG Prompts as many lines.",
        )
    (count,) = counts
    return [
        _rows(
            [
                [embedding, {k: v for k, v in options.items() if k != _PLACE}]
                for embedding, options in prompt
                if options.get(_PLACE, (place, count))[0] == place
            ],
            slice(place, place + 1),
        )
        for place in range(count)
    ]


def _rows(prompt: Conditioning, where: slice) -> Conditioning:
    """Some of the prompts that share parts."""

    def cut(value: Any, of: int) -> Any:
        return value[where] if value is not None and len(value) == of > 1 else value

    return [
        [cut(e, len(e)), {k: cut(v, len(e)) if k in _ROWS else v for k, v in options.items()}]
        for e, options in prompt
    ]


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    return [row for value in values for row in value]


def _alike(one: list[Any], other: list[Any]) -> bool:
    """Whether two prompts can be rows of one part."""
    (first, options), (second, others) = one, other
    if first.shape != second.shape or options.keys() != others.keys():
        return False
    return all(_can_join(key, value, others[key]) for key, value in options.items())


def _can_join(key: str, one: Any, other: Any) -> bool:
    if key == WORDS:
        return True
    if key in _ROWS and isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape
    return comfy.conds.is_equal(one, other)
