"""A latent's noise mask in a run: outside it the steps go along the recorded states.

What the host's inpainting samplers do with their noised picture is done here with the recorded
states r. With m the mask and x a state at a level,

    shown       m x + (1 - m) r                     what the network sees
    followed    m x0 + (1 - m) x0_r                 where the step goes: x0 as predicted from what
                                                    was shown, x0_r where a step leads from r to the
                                                    next r
    settled     m s + (1 - m) o                     where it ends: s what a method and an editor
                                                    make of the step to x0, o the step to x0_r
so that where m is 0 a run goes along the recorded states, where it is 1 it is free, and between the
two it ends at the mixture of both.
"""

from typing import NamedTuple

import torch

from ..trajectory.levels import step_factors
from ..trajectory.schedule import Step


class NoiseMask(NamedTuple):
    """The mask in one step.

    Attributes:
        mask: (rows or 1, 1, ...) 0..1, as it is at this step's level.
        recorded: (rows, C, ...) the recorded state that the step starts from.
        recorded_to: the one that it leads to.
        step: where it is.
    """

    mask: torch.Tensor
    recorded: torch.Tensor
    recorded_to: torch.Tensor
    step: Step

    def shown(self, x: torch.Tensor) -> torch.Tensor:
        """What the network sees of the states `x`, (rows, C, ...)."""
        return torch.lerp(self.recorded, x, self.mask)

    def inside(
        self, x: torch.Tensor, shown: torch.Tensor, moved: torch.Tensor, eps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The states that the free step starts from, and its noise; each (rows, C, ...).

        Args:
            x: the states of the run.
            shown: what was shown of them.
            moved: the same as a method or an editor moved it before the prediction.
            eps: the noise in `moved`.
        """
        return x + (moved - shown), eps + (x - shown) / self.step.level.sigma

    def outside(self, x: torch.Tensor) -> torch.Tensor:
        """The noise of the step along the recorded states, from the states `x`; (rows, C, ...)."""
        scale, shift = step_factors(self.step.level, self.step.level_to)
        along = (self.recorded_to - scale * self.recorded) / shift
        return along + (x - self.recorded) / self.step.level.sigma

    def mixed(self, outside: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Of both, (rows, C, ...), what the mask takes of each."""
        return torch.lerp(outside, inside, self.mask)

    def settled(self, outside: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The states after a step, (rows, C, ...); where the mask is 0 bit for bit the recorded.

        Args:
            outside: where the step along the recorded states led.
            inside: what method and editor made of the free step.
        """
        kept = self.mixed(outside, inside)
        return torch.where(self.mask == 0, self.recorded_to, kept)
