"""Edit directions, arXiv 2302.03027, sec. 3.1: an edit as a shift of the prompt's embedding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..errors import InvalidInput


class SentenceEmbedding(NamedTuple):
    """A sentence as a text encoder gives it."""

    tokens: torch.Tensor  # (1, T, C), one row per column of the prompt
    pooled: torch.Tensor | None = None  # (1, P), where the model takes one


@dataclass(frozen=True, eq=False)
class EditDirection:
    """What is added to a prompt's embedding to make another prompt of it.

    Never written to: who needs another one makes it.

    Attributes:
        embedding: (1, T, C) float32, CPU.
        pooled: (1, P) float32, CPU, for models that take one (SDXL); else None.
        source, target: the sentences it was made of, one per line, for the reader.

    Raises:
        InvalidInput: a tensor is of another shape, dtype or place, or not finite.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor | None = None
    source: str = ""
    target: str = ""

    def __post_init__(self) -> None:
        for name, value, ndim in (("embedding", self.embedding, 3), ("pooled", self.pooled, 2)):
            if value is not None:
                _check(f"direction {name}", value, ndim)

    def shift(
        self, embedding: torch.Tensor, pooled: torch.Tensor | None = None, strength: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A prompt moved along the direction.

        Args:
            embedding: (B, T, C) floating; never written to.
            pooled: (B, P) floating, or None; moved where the direction has one as well.
            strength: dimensionless. 0 is neutral, 1 the whole way, negative the other way.

        Returns:
            Both in shape, dtype and device of what was given.

        Raises:
            InvalidInput: the direction is of another text encoder or prompt length.
        """
        moved = _moved(embedding, self.embedding, strength, "embedding")
        if pooled is None or self.pooled is None:
            return moved, pooled
        return moved, _moved(pooled, self.pooled, strength, "pooled embedding")


def mean_difference(
    source: Iterable[SentenceEmbedding],
    target: Iterable[SentenceEmbedding],
    source_text: str = "",
    target_text: str = "",
) -> EditDirection:
    """The mean of the target sentences minus the mean of the source sentences.

    Equation: delta c_edit of arXiv 2302.03027, sec. 3.1. The more sentences, the less of anything
    but the edit is in it: the paper takes about a thousand, and a few work.

    Args:
        source: gone through once, then `target`; summed up in float64, so a thousand need no
            more memory than one.
        target: of the same shapes.
        source_text, target_text: kept in the direction.

    Raises:
        InvalidInput: a list is empty, or the shapes differ.
    """
    start, end = _mean(source, "source"), _mean(target, "target")
    _check_alike(end, start, "target")
    embedding, *pooled = [(b - a).float() for a, b in zip(start, end, strict=True)]
    return EditDirection(embedding, pooled[0] if pooled else None, source_text, target_text)


def _check(name: str, value: torch.Tensor, ndim: int) -> None:
    expected = "(1, columns, channels)" if ndim == 3 else "(1, channels)"
    fits = value.ndim == ndim and len(value) == 1
    if not fits or value.dtype != torch.float32 or value.device.type != "cpu":
        got = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
        raise InvalidInput.of(
            name, "has the wrong form", got, f"{expected} float32 on cpu", "Convert it."
        )
    if not bool(torch.isfinite(value).all()):
        raise InvalidInput.of(
            name,
            "is not finite",
            "NaN or infinity",
            "numbers",
            "Run the text encoder in float32 (--fp32-text-enc).",
        )


def _mean(sentences: Iterable[SentenceEmbedding], name: str) -> list[torch.Tensor]:
    """Of the embeddings, and of the pooled ones if there are any; float64, CPU."""
    total, count = [], 0
    for sentence in sentences:
        # First to the CPU: not every device knows float64.
        parts = [part.detach().cpu().double() for part in sentence if part is not None]
        if count:
            _check_alike(parts, total, name)
        total = [a + b for a, b in zip(total, parts, strict=True)] if count else parts
        count += 1
    if not count:
        raise InvalidInput.of(name, "has no sentences", "none", "at least one", "Write some.")
    return [part / count for part in total]


def _check_alike(got: list[torch.Tensor], expected: list[torch.Tensor], name: str) -> None:
    shapes, others = ([tuple(part.shape) for part in parts] for parts in (got, expected))
    if shapes != others:
        raise InvalidInput.of(
            name,
            "has a sentence of another shape (embedding, pooled embedding)",
            ", ".join(map(str, shapes)),
            f"{', '.join(map(str, others))}, as the sentences before it",
            "Encode all with one text encoder, and keep them to one length in columns.",
        )


def _moved(
    value: torch.Tensor, direction: torch.Tensor, strength: float, name: str
) -> torch.Tensor:
    if value.shape[1:] != direction.shape[1:]:
        raise InvalidInput.of(
            "direction",
            f"does not fit the prompt's {name}",
            tuple(direction.shape),
            f"(1, {', '.join(map(str, value.shape[1:]))})",
            "Make it with this model's text encoder, and keep the prompt within 75 tokens.",
        )
    wide = torch.promote_types(value.dtype, torch.float32)
    shift = strength * direction.to(value.device)
    return (value.to(wide) + shift).to(value.dtype)
