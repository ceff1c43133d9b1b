"""Negative-Prompt Inversion, arXiv 2305.16807: the source prompt in the negative prompt's place.

Where text guidance pushes away from the source prompt, a run under the source prompt is text scale
1, whatever the scale: the reconstruction of plain DDIM, for nothing. Null-Text Inversion ends near
that embedding by optimisation.
"""

import math
from dataclasses import dataclass

import torch

from .. import checks
from ..contract.guidance import Guidance, GuidedRun, Run
from ..contract.predictor import Prompt, PromptEmbedding, Request
from ..trajectory.schedule import Step

# Below this sine two embeddings are parallel: their great circle is undefined, or all rounding.
PARALLEL = 1e-4


@dataclass(frozen=True)
class NegativePromptGuidance(Guidance):
    """Negative-Prompt Inversion with its setting.

    Attributes:
        interpolation: 0 to 1, how far the unconditional embedding is moved from the source prompt's
            towards the negative prompt's own. 0 is the paper; the published code of proximal
            guidance (arXiv 2306.05414) has the choice.

    Raises:
        InvalidInput: the interpolation is outside 0..1.
    """

    interpolation: float = 0.0
    needs_source_prompt = True
    moves_states = False

    def __post_init__(self) -> None:
        meaning = "0 is the source prompt, 1 the negative prompt."
        checks.share("interpolation", self.interpolation, meaning)

    def begin(self, run: Run) -> GuidedRun:
        return _NegativePromptRun(self.interpolation, run)


class _NegativePromptRun(GuidedRun):
    """One embedding for all steps and all branches."""

    def __init__(self, interpolation: float, run: Run) -> None:
        super().__init__(run)
        # At the ends the other prompt is not asked for: it may have several parts.
        if interpolation == 0:
            self.unconditional = run.predictor.embedding(Prompt.SOURCE)
        elif interpolation == 1:
            self.unconditional = run.predictor.embedding(Prompt.NEGATIVE)
        else:
            self.unconditional = interpolate_embeddings(
                run.predictor.embedding(Prompt.SOURCE),
                run.predictor.embedding(Prompt.NEGATIVE),
                interpolation,
            )

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        return super().prepare(x, step)._replace(embedding=self.unconditional)


def interpolate_embeddings(
    source: PromptEmbedding, negative: PromptEmbedding, weight: float
) -> PromptEmbedding:
    """The embedding between `source` (weight 0) and `negative` (1), both exact.

    The tokens go along the great circle through the flattened embeddings, as in the published code
    of arXiv 2306.05414 (`npi_interp`), and along the line where that is undefined; the vector along
    the line.

    Args:
        source, negative: tokens of equal width and any length; one row each, or one per picture.
        weight: 0 to 1, dimensionless.
    """
    if weight in (0, 1):
        return negative if weight else source
    length = math.lcm(source.tokens.shape[1], negative.tokens.shape[1])
    vector = source.vector
    if vector is not None and negative.vector is not None:
        vector = torch.lerp(vector, negative.vector.to(vector), weight)
    first, second = (_repeated(each.tokens, length) for each in (source, negative))
    return PromptEmbedding(_slerp(first, second, weight), vector)


def _repeated(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """The tokens several times over: attention to them gives the same."""
    return tokens.repeat(1, length // tokens.shape[1], 1)


def _slerp(first: torch.Tensor, second: torch.Tensor, weight: float) -> torch.Tensor:
    """Spherical interpolation of each row, (rows or 1, ...); in float32 or better."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    rows = max(len(first), len(second))
    # Contiguous, so that a row's sums do not depend on how many rows there are.
    one, other = (
        each.to(dtype).expand(rows, -1, -1).flatten(1).contiguous() for each in (first, second)
    )
    norms = one.norm(dim=1, keepdim=True) * other.norm(dim=1, keepdim=True)
    # A prompt zeroed out has no direction: 0 / 0, which the comparison below sends to the line.
    cosine = ((one * other).sum(1, keepdim=True) / norms).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    circle = (torch.sin((1 - weight) * angle) * one + torch.sin(weight * angle) * other) / sine
    mixed = torch.where(sine > PARALLEL, circle, torch.lerp(one, other, weight))
    return mixed.reshape(rows, *first.shape[1:]).to(first.dtype)
