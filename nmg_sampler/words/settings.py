"""What a user says about single words, as numbers per embedding column and per step.

Schedules are those of Prompt-to-Prompt, arXiv 2208.01626, as its published code counts steps.
"""

import math
import re

import torch

from ..errors import InvalidInput
from .finding import find
from .full_width import narrow, narrow_value
from .prompt import TokenizedPrompt

_NUMBER = r"\d+\.?\d*|\.\d+"
_FRACTION = re.compile(rf"({_NUMBER})(?:\s*[-~]\s*({_NUMBER}))?")


def parse_pairs(text: str, argument: str, example: str) -> list[tuple[str, str]]:
    """(words, value) of every entry of a text such as "tiger:2.0, oil painting:1.5".

    Args:
        text: entries separated by commas, semicolons or line ends, of full width as well; empty
            ones do not count.
        argument: what the text is called in an error.
        example: a text that is right, for the error.

    Raises:
        InvalidInput: an entry has no colon.
    """
    entries = [entry.strip() for entry in re.split(r"[,;\n]", narrow(text))]
    pairs = [entry.rpartition(":") for entry in entries if entry]
    if not all(colon for _, colon, _ in pairs):
        raise _unreadable(argument, text, "every entry needs a colon and a value", example)
    return [(words.strip(), narrow_value(value).strip()) for words, _, value in pairs]


def word_weights(prompt: TokenizedPrompt, text: str, argument: str = "reweight") -> torch.Tensor:
    """How strongly each embedding column is attended to: the equalizer of Prompt-to-Prompt.

    Args:
        prompt: the target prompt, T columns.
        text: such as "tiger:2.0, oil painting:1.5"; 0 and negative factors are allowed. Of entries
            that overlap the last one counts.
        argument: what the text is called in an error.

    Returns:
        (T,) float32, dimensionless factors, 1 for every other column.

    Raises:
        InvalidInput: the text cannot be read, a factor is not finite, or a word is not in the
            prompt.
    """
    weights = torch.ones(len(prompt.ids))
    for words, value in parse_pairs(text, argument, "tiger:2.0, oil painting:1.5"):
        try:
            factor = float(value)
        except ValueError:
            factor = math.nan
        if not math.isfinite(factor):
            problem = f"{value!r} is no finite number"
            raise _unreadable(argument, text, problem, "tiger:2.0, oil painting:1.5")
        weights[list(find(prompt, words, argument))] = factor
    return weights


def word_schedule(
    prompt: TokenizedPrompt,
    default: float | tuple[float, float],
    text: str,
    steps: int,
    argument: str = "word_schedule",
) -> torch.Tensor:
    """In which steps each embedding column takes its attention map from the source.

    Args:
        prompt: the target prompt, T columns.
        default: part of the run for columns without an entry, (start, end) or the end alone, 0..1.
        text: such as "tiger:0.4, vase:0.2-0.6", the same for single words.
        steps: sampling steps, 1 or more.
        argument: what the text is called in an error.

    Returns:
        (steps, T) float32, 1 where the map is taken over and 0 elsewhere.

    Raises:
        InvalidInput: a part of the run is none, the text cannot be read, or a word is not in the
            prompt.
    """
    schedule = _active(default, steps, "cross_replace").repeat(1, len(prompt.ids))
    example = "tiger:0.4, vase:0.2-0.6"
    for words, value in parse_pairs(text, argument, example):
        parts = _FRACTION.fullmatch(value)
        if parts is None:
            raise _unreadable(argument, text, f"{value!r} is no part of a run", example)
        first, second = parts.groups()
        span = float(first) if second is None else (float(first), float(second))
        schedule[:, list(find(prompt, words, argument))] = _active(span, steps, argument)
    return schedule


def self_steps(steps: int, fraction: float | tuple[float, float]) -> range:
    """The steps in which self-attention maps are taken from the source: 0.7 of 50 is the first 35.

    Args:
        steps: sampling steps.
        fraction: part of the run, (start, end) or the end alone, 0..1.

    Raises:
        InvalidInput: `fraction` is no part of a run.
    """
    start, end = _bounds(fraction, "self_replace")
    return range(int(steps * start), int(steps * end))


def blend_columns(
    source: TokenizedPrompt, target: TokenizedPrompt, text: str, argument: str = "blend_words"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Embedding columns whose attention says where the edit is: (of the source, of the target).

    Args:
        source: where the first word of a pair is looked for.
        target: where the second is looked for.
        text: such as "cat, tiger" or "cat, tiger; hat, hat"; a word alone is looked for in both.
            An empty text gives no columns.
        argument: what the text is called in an error.

    Raises:
        InvalidInput: the text cannot be read, or a word is not in its prompt.
    """
    columns: tuple[set[int], set[int]] = set(), set()
    for pair in narrow(text).split(";"):
        words = [word.strip() for word in pair.split(",")]
        if words == [""]:
            continue
        if len(words) > 2 or not all(words):
            problem = f"{pair.strip()!r} is neither a word nor a pair of words"
            raise _unreadable(argument, text, problem, "cat, tiger; hat, hat")
        columns[0].update(find(source, words[0], f"{argument} (source prompt)"))
        columns[1].update(find(target, words[-1], f"{argument} (target prompt)"))
    return tuple(sorted(columns[0])), tuple(sorted(columns[1]))


def _active(part: float | tuple[float, float], steps: int, argument: str) -> torch.Tensor:
    """(steps, 1): 1 in a part of the run, counted as in the published code.

    Its table has a row more than there are steps, so 0.8 of 50 steps are int(0.8 * 51) = 40.
    """
    start, end = (int(bound * (steps + 1)) for bound in _bounds(part, argument))
    active = torch.zeros(steps, 1)
    active[start:end] = 1
    return active


def _bounds(part: float | tuple[float, float], argument: str) -> tuple[float, float]:
    start, end = part if isinstance(part, tuple) else (0.0, part)
    if not 0 <= start <= end <= 1:
        raise InvalidInput.of(
            argument,
            "is no part of a run",
            f"{start:g} to {end:g}",
            "0 <= start <= end <= 1",
            "0 to 1 is the whole run.",
        )
    return start, end


def _unreadable(argument: str, text: str, problem: str, example: str) -> InvalidInput:
    return InvalidInput.of(
        argument, f"cannot be read: {problem}", repr(text), f"text like {example!r}", "Correct it."
    )
