"""A guidance without its loop: the predicted noise it corrects, for whoever takes the steps."""

import torch

from ..contract.branches import Branches
from ..contract.editor import EditorRun
from ..contract.events import check_finite
from ..contract.guidance import Guidance, Run, check_text_scale
from ..contract.predictor import Predictor
from ..errors import InvalidInput
from ..trajectory.schedule import Step
from ..trajectory.trajectory import Trajectory, check_mask
from .sampling import mask_on_rows


class HeldPrediction:
    """The text-guided noise of a step, held to a trajectory; lives as long as one run.

    An Euler step in x / alpha along it, from level to level, is what `sample` does.

    Args:
        trajectory, predictor, text_scale, targets, device: as `sample` takes them.
        guidance: one that does no more than correct predictions.
        mask: (B or 1, 1, ...) 0..1, 1 where the picture may change: there it holds weakly.

    Raises:
        InvalidInput: the guidance does more, or would have to for the mask; the scale is negative
            or not finite; guidance or mask do not fit the trajectory.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        predictor: Predictor,
        guidance: Guidance,
        text_scale: float,
        *,
        targets: int = 1,
        device: torch.device | str = "cpu",
        mask: torch.Tensor | None = None,
    ) -> None:
        check_moves_nothing(guidance)
        check_text_scale(text_scale)
        branches = Branches(trajectory.shape[0], targets)
        guidance.check(trajectory, branches)
        if mask is not None:
            check_mask("mask", mask, trajectory.shape)
        mask = mask_on_rows(mask, branches, device, trajectory.states.dtype)
        self.total = len(trajectory.schedule.descent())
        self.run = Run(predictor, trajectory, self.total, text_scale, branches, mask)
        self.guiding = guidance.begin(self.run)
        self.editing = EditorRun(self.run)
        if mask is not None and not guidance.masks_in_prediction:
            raise InvalidInput.of(
                "mask",
                "cannot be kept to by this guidance with a sampler that takes the steps itself",
                type(guidance).__name__,
                "Noise Map Guidance or Proximal Guidance, which hold within a prediction",
                "Connect the sampler and the sigmas of NMG Sampler, or one of these as guidance.",
            )

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """The noise in `x`, (targets * B, C, ...), a state at the level that `step` starts from.

        Raises:
            NotFinite: the model answered with NaN or infinity.
        """
        x, guided = self.editing.predict(self.guiding.prepare(x, step), step)
        eps = self.guiding.correct(x, step, guided)
        check_finite(eps, "prediction", step.index, self.total, step.level)
        return eps


def check_moves_nothing(guidance: Guidance) -> None:
    """Raises InvalidInput if a guidance does more to a step than to correct its prediction."""
    if guidance.moves_states or guidance.needs_source_branch:
        raise InvalidInput.of(
            "guidance",
            "does more than correct the predicted noise",
            f"{type(guidance).__name__} with these settings, which moves the states themselves",
            "one that corrects it alone: Noise Map Guidance in mode fused, DDIM + CFG, Null-Text"
            " or Negative-Prompt Inversion, Proximal Guidance with recon_strength 0",
            "Connect the sampler and the sigmas of NMG Sampler, or take one of these.",
        )
