"""The one contract in the middle: what the library asks of a network."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import torch

from ..errors import InvalidInput
from ..trajectory.levels import NoiseLevel
from .attention import AttentionEdit
from .branches import Branches, Rows


class Prompt(Enum):
    """Which text a prediction is made under."""

    SOURCE = "source"  # describes the picture we started from
    POSITIVE = "positive"  # what we go to
    NEGATIVE = "negative"  # unconditional


class PromptEmbedding(NamedTuple):
    """A prompt as the network takes it."""

    tokens: torch.Tensor  # (rows or 1, columns, width)
    vector: torch.Tensor | None = None  # (rows or 1, width), what SDXL takes beside the tokens


class Guided(NamedTuple):
    """Noise predictions under text guidance; each (B, C, ...), the shape of the state."""

    eps: torch.Tensor  # negative + text_scale * (positive - negative), or the host's own rule
    negative: torch.Tensor | None  # None where it was not needed and not computed


def joined(parts: Sequence[Guided]) -> Guided:
    """Predictions of one part of the rows after the other as one of all of them.

    The unconditional one is known of all or of none.
    """
    if len(parts) == 1:
        return parts[0]
    negatives = [part.negative for part in parts]
    known = all(negative is not None for negative in negatives)
    eps = torch.cat([part.eps for part in parts])
    return Guided(eps, torch.cat(negatives) if known else None)


# Classifier-free guidance scale, dimensionless, 1 is none: of all branches, or (source, targets).
TextScale = float | tuple[float, float]


class Request(NamedTuple):
    """What one text-guided prediction is asked for.

    Attributes:
        x: (rows, C, ...) the states, of the branches named by `rows`, at `level`.
        level: theirs.
        text_scale: see `TextScale`.
        rows: which branches, each under its own prompt.
        negative: the unconditional prediction of all these rows, where it is known.
        embedding: takes the negative prompt's place, for every branch.
        attention: how attention is changed meanwhile.
        needs_negative: whether the unconditional prediction is used by itself, so that text
            guidance of scale 1 makes it as well.
    """

    x: torch.Tensor
    level: NoiseLevel
    text_scale: TextScale
    rows: Rows = Rows.ALL
    negative: torch.Tensor | None = None
    embedding: PromptEmbedding | None = None
    attention: AttentionEdit | None = None
    needs_negative: bool = False

    def by_scale(self, branches: Branches) -> "tuple[Request, ...]":
        """The same as requests of one scale each: itself, or one for the source and one for the
        targets, in the order of their rows.

        Args:
            branches: of the run.

        Raises:
            InvalidInput: an attention edit wants both in one prediction.
        """
        if not isinstance(self.text_scale, tuple):
            return (self,)
        source, targets = self.text_scale
        if self.rows is not Rows.ALL or not branches.with_source:
            return (self._replace(text_scale=source if self.rows is Rows.SOURCE else targets),)
        if source == targets:
            return (self._replace(text_scale=source),)
        if self.attention is not None:
            raise InvalidInput.of(
                "editor",
                "needs source and target in one prediction, which has one text scale",
                f"{source:g} for the source, {targets:g} for the target",
                "the same for both",
                "Disconnect the editor, or set both scales to the same.",
            )
        parts = (
            (Rows.SOURCE, source, branches.source_rows),
            (Rows.TARGETS, targets, branches.target_rows),
        )
        return tuple(
            self._replace(
                x=self.x[where],
                text_scale=scale,
                rows=rows,
                negative=None if self.negative is None else self.negative[where],
            )
            for rows, scale, where in parts
        )


class AttentionLoss(AttentionEdit, Protocol):
    """An attention edit that changes nothing and adds up a loss over the layers it sees."""

    def total(self) -> torch.Tensor:
        """The loss of the prediction that is over: a scalar with its graph."""
        ...


class Predictor(Protocol):
    """A network with its prompts bound.

    States are (rows, C, ...) at a level: x = alpha * x0 + sigma * eps. A predictor is never asked
    at sigma 0. Where gradients are enabled and the state, or the embedding given, requires them,
    `eps` is differentiable in it.
    """

    def embedding(self, prompt: Prompt) -> PromptEmbedding:
        """A prompt that is bound, to start from or to mix with; on the run's device.

        Raises:
            InvalidInput: it has several parts.
        """
        ...

    def noise_mask_at(self, mask: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        """A trajectory's noise mask, (B or 1, 1, ...), at a level: itself, unless the network comes
        with a schedule of masks (Differential Diffusion, arXiv 2306.00950)."""
        ...

    def eps(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        attention: AttentionEdit | None = None,
        embedding: PromptEmbedding | None = None,
        rows: Rows | None = None,
    ) -> torch.Tensor:
        """The noise in `x` under one kind of prompt; costs one row per sample.

        Args:
            embedding: takes the negative prompt's place, as in a `Request`.
            rows: which branches those of `x` are; None is the source under SOURCE, else the
                targets. A patch that looks at text and negative prompt together is shown both, and
                the text is that of these branches: then it costs two rows per sample.
        """
        ...

    def guided(self, request: Request) -> Guided:
        """Classifier-free guidance, as requested.

        Costs two rows per sample, or one if `negative` is known, or if the scale is 1 and no
        negative is needed; two calls instead of one where branches have scales of their own.
        At scale 1 `negative` may stay None although it was needed.
        """
        ...

    def loss_gradient(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        loss: Callable[[], AttentionLoss],
        embedding: PromptEmbedding | None = None,
    ) -> torch.Tensor:
        """d loss / d x, of what a loss adds up while the noise in `x` is predicted; shape of `x`.

        Args:
            loss: makes one that is still empty. A predictor that runs out of memory in the middle
                begins anew, with a new one.

        Raises:
            NotDifferentiable: the loss is cut off from `x`.
        """
        ...
