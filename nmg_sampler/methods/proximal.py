"""Proximal guidance (ProxNPI), arXiv 2306.05414: only what the prompt really changes is changed.

Negative-Prompt Inversion (arXiv 2305.16807) takes the source prompt as the unconditional one, so
that delta = eps(z, c) - eps(z, c_source) is the edit and nothing else. Where it is small it is
noise, and is taken out (sec. 3.2):

    eps = eps(z, c_source) + w prox(delta)     soft: sign(delta) max(|delta| - lambda, 0)
                                               hard: delta where |delta| > lambda, else 0

and in the late steps, where nothing is edited, the state is drawn to the recorded one (sec. 3.3):

    z' <- z' - eta (z' - z*) (1 - M)           M: where prox(delta) is not 0, grown

The published code differs: its 'l0' is the soft threshold, its 'l1' turns signs round just above
the threshold, and its M asks |prox(delta)| > lambda, which with a soft threshold is another one.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch.nn.functional import max_pool2d

from .. import checks
from ..contract.branches import Rows
from ..contract.guidance import Guidance, GuidedRun, Run
from ..contract.predictor import Guided, Prompt, Request
from ..trajectory.schedule import Step
from .negative_prompt import NegativePromptGuidance


class Threshold(str, Enum):
    """What becomes of the part of the edit that is above the threshold."""

    SOFT = "soft"  # smaller by the threshold: the proximal operator of l1
    HARD = "hard"  # left as it is: the proximal operator of l0


@dataclass(frozen=True)
class ProximalGuidance(Guidance):
    """Proximal guidance with its settings; costs no model call at a text scale other than 1.

    The threshold lambda is the larger one of two: a quantile and a fixed value. The quantile is
    that of |delta| of one sample. The published run counts the source branch in, whose delta is 0:
    its q is 2 q - 1 here, so that its default 0.7 is 0.4 and the 0.75 of its benchmark is 0.5.

    With an editor the source branch is no edit: its prediction stays, and all of it is drawn to the
    trajectory. Without one the mask of the run, where it is 0, takes the edit out.

    Attributes:
        threshold: soft or hard.
        quantile: lambda as the share of a sample's elements that are no edit, 0..1; 0 leaves
            lambda to `value`.
        value: lambda in units of predicted noise (1 is the size of all of it), 0 or more.
        recon_strength: eta, the share of the way to the recorded state, 0..1; 0 is none.
        recon_start: fraction of the run from which that happens, 0..1; 0.6 is the published
            t < 400.
        dilate: by how many cells M is grown, 0 or more; per channel, as published.
        interpolation: of the unconditional embedding, see `NegativePromptGuidance`; 0 is the paper.

    Raises:
        InvalidInput: a setting leaves its range.
    """

    threshold: Threshold = Threshold.SOFT
    quantile: float = 0.7
    value: float = 0.0
    recon_strength: float = 0.1
    recon_start: float = 0.6
    dilate: int = 1
    interpolation: float = 0.0

    needs_source_prompt = True
    masks_in_prediction = True

    def __post_init__(self) -> None:
        threshold = checks.choice("threshold", self.threshold, Threshold)
        object.__setattr__(self, "threshold", threshold)
        for name in ("quantile", "recon_strength", "recon_start"):
            checks.share(name, getattr(self, name), "0 is none.")
        checks.strength("value", self.value, "0 is none.")
        checks.count("dilate", self.dilate, 0, "0 is none.")
        NegativePromptGuidance(self.interpolation)  # refuses what is none

    @property
    def moves_states(self) -> bool:
        """Whether the states are drawn to the picture after the steps."""
        return self.recon_strength > 0

    @property
    def takes_out(self) -> bool:
        """Whether there is a threshold at all."""
        return self.quantile > 0 or self.value > 0

    def begin(self, run: Run) -> GuidedRun:
        return _ProximalRun(self, run)

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        """prox(delta): (rows, C, ...) with a threshold per row; signs stay what they are."""
        limit = _quantile(delta.abs(), self.quantile).clamp(min=self.value)
        over = delta.abs() > limit
        if self.threshold is Threshold.HARD:
            return torch.where(over, delta, 0)
        return torch.where(over, delta - delta.sign() * limit, 0)


class _ProximalRun(GuidedRun):
    def __init__(self, guidance: ProximalGuidance, run: Run) -> None:
        super().__init__(run)
        self.guidance = guidance
        run.predictor.embedding(Prompt.NEGATIVE)  # its place is taken: refuses one of several parts
        self.base = NegativePromptGuidance(guidance.interpolation).begin(run)
        # (rows, C, ...) 0..1: where the step in progress edits, from `correct` to `settle`.
        self.edited: torch.Tensor | None = None

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        return self.base.prepare(x, step)._replace(needs_negative=self.parts(step))

    def correct(self, x: torch.Tensor, step: Step, guided: Guided) -> torch.Tensor:
        if self.run.text_scale == 0:  # nothing of the prompt is in it
            self.edited = torch.zeros_like(x)
            return guided.eps
        if not self.parts(step):
            return guided.eps
        edits = self.run.branches.target_rows
        # Under the host's own rule of guidance it is what that rule makes of the edit.
        delta = (guided.eps - self.unconditional(x, step, guided))[edits] / self.run.text_scale
        kept = self.guidance.shrink(delta)
        edited = _grow((kept != 0).to(x.dtype), self.guidance.dilate)
        if self.run.mask is not None:
            kept, edited = kept * self.run.mask, edited * self.run.mask
        source = torch.zeros_like(x[self.run.branches.source_rows])
        self.edited = torch.cat([source, edited])
        # What is taken out, not what is left: a threshold of 0 then changes no bit.
        return guided.eps - self.run.text_scale * torch.cat([source, delta - kept])

    def settle(self, x: torch.Tensor, step: Step, eps: torch.Tensor) -> torch.Tensor:
        if not self.draws(step):
            return x
        eta, edited = self.guidance.recon_strength, self.edited
        self.edited = None
        # Exact at both ends: where M is 1 it is the step's result, with eta 1 and M 0 the record.
        return torch.lerp(x, self.run.recorded(step.entry_to, like=x), eta * (1 - edited))

    def parts(self, step: Step) -> bool:
        """Whether `step` looks at the edit apart from the unconditional prediction."""
        acts = self.guidance.takes_out or self.draws(step) or self.run.mask is not None
        return acts and self.run.text_scale > 0

    def draws(self, step: Step) -> bool:
        """Whether the state is drawn to the recorded one after `step`."""
        guidance = self.guidance
        return guidance.recon_strength > 0 and step.index / self.run.total >= guidance.recon_start

    def unconditional(self, x: torch.Tensor, step: Step, guided: Guided) -> torch.Tensor:
        """The prediction under the source prompt's embedding, of all rows."""
        if guided.negative is not None:
            return guided.negative
        # An editor or a patch at a scale that counts as 1, or a cached answer.
        embedding = self.base.prepare(x, step).embedding
        return self.run.predictor.eps(
            x, step.level, Prompt.NEGATIVE, embedding=embedding, rows=Rows.ALL
        )


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """Per row, the smallest number that `share` of the row does not exceed: (rows, 1, ...).

    0 at a share of 0. Sorted, as torch.quantile takes neither half precision nor large tensors.
    """
    rows = values.flatten(1)
    # Rounding may lift the product above a whole number: 0.07 * 100 is 7.000000000000001.
    rank = math.ceil(share * rows.shape[1] - 1e-6)
    shape = (len(values), *[1] * (values.ndim - 1))
    if rank <= 0:
        return values.new_zeros(shape)
    return rows.sort(dim=1).values[:, rank - 1].reshape(shape)


def _grow(mask: torch.Tensor, cells: int) -> torch.Tensor:
    """A mask (rows, C, ..., h, w) grown by `cells` in each direction, per channel and frame."""
    if not cells:
        return mask
    pictures = mask.flatten(1, -3)
    return max_pool2d(pictures, 2 * cells + 1, stride=1, padding=cells).view_as(mask)
