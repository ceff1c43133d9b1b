"""The one contract in the middle: what the library asks of a network."""

from enum import Enum
from typing import NamedTuple, Protocol

import torch

from ..trajectory.levels import NoiseLevel
from .attention import AttentionEdit
from .branches import Rows


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

    def eps(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        attention: AttentionEdit | None = None,
        embedding: PromptEmbedding | None = None,
    ) -> torch.Tensor:
        """The noise in `x` under one kind of prompt; costs one row per sample.

        Under POSITIVE the rows are those of the target branches. An `embedding` takes the place of
        the prompt's own.
        """
        ...

    def guided(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        text_scale: float,
        negative: torch.Tensor | None = None,
        rows: Rows = Rows.ALL,
        attention: AttentionEdit | None = None,
        embedding: PromptEmbedding | None = None,
        needs_negative: bool = False,
    ) -> Guided:
        """Classifier-free guidance of the branches named by `rows`, each under its own prompt.

        An `embedding` takes the place of the negative prompt's, for every branch. Costs two rows
        per sample, or one if `negative` is known, or if the scale is 1 and no negative is needed.
        """
        ...
