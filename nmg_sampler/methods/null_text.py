"""Null-Text Inversion, arXiv 2211.09794: an unconditional embedding per step, fitted to a picture.

With text guidance a run under the source prompt drifts off the trajectory. Per step, the
unconditional embedding is optimised until the step lands on the recorded state again
(`null_text_optimisation`). Sampling with those embeddings then reconstructs the picture at that
text scale, and an edit starts from there.
"""

import math
from dataclasses import dataclass

import torch

from .. import checks
from ..contract.branches import Branches
from ..contract.guidance import Guidance, GuidedRun, Run
from ..contract.predictor import PromptEmbedding, Request
from ..errors import InvalidInput, TrajectoryMismatch
from ..trajectory.recorded import RecordedStates
from ..trajectory.schedule import Step
from ..trajectory.trajectory import SAME_PICTURE, Trajectory

# The published code: the learning rate falls by this part of itself per step, and the loss that is
# good enough rises by this much.
RATE_DECAY, TOLERANCE_RISE = 1 / 100, 2e-5


@dataclass(frozen=True)
class NullTextSettings:
    """How the embeddings are found; the defaults are the published ones.

    Attributes:
        text_scale: classifier-free guidance scale of the runs to come, dimensionless; not 1.
        inner_steps: the most updates of an embedding per step; 0 is plain text guidance.
        learning_rate: of Adam in step 0. In step i it is (1 - i / 100) of that, as published; the
            published runs have 50 steps, so from step 99 on it stays at 1 / 100.
        early_stop: in step i a sample's updates end with the one after which its mean squared
            error was below early_stop + 2e-5 * i, for states alpha * x0 + sigma * eps.

    Raises:
        InvalidInput: a number is out of range, or the scale is 1.
    """

    text_scale: float = 7.5
    inner_steps: int = 10
    learning_rate: float = 0.01
    early_stop: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("text_scale", "inner_steps", "learning_rate", "early_stop"):
            published = getattr(NullTextSettings, name)
            checks.strength(name, getattr(self, name), f"The paper takes {published}.")
        if math.isclose(self.text_scale, 1):
            raise InvalidInput.of(
                "text_scale",
                "leaves nothing to optimise: at 1 the unconditional prompt has no effect, so its"
                " gradient is 0",
                self.text_scale,
                "another scale than 1",
                "At text scale 1 take DDIM + CFG: it is as faithful as this would be.",
            )

    def rate(self, index: int) -> float:
        """Adam's learning rate in step `index`."""
        return self.learning_rate * max(1 - RATE_DECAY * index, RATE_DECAY)

    def tolerance(self, index: int) -> float:
        """The mean squared error that is good enough in step `index`."""
        return self.early_stop + TOLERANCE_RISE * index

    def extra_name(self, negative: str) -> str:
        """Where a trajectory keeps what these settings found; its schedule it has itself.

        Args:
            negative: tells the negative prompt from others.
        """
        return (
            f"null-text text_scale={float(self.text_scale)} inner_steps={self.inner_steps}"
            f" learning_rate={float(self.learning_rate)} early_stop={float(self.early_stop)}"
            f" negative={negative}"
        )


@dataclass(frozen=True, eq=False)
class NullTextGuidance(Guidance):
    """Null-Text Inversion with what it found: each step takes its own unconditional embedding.

    All branches and all targets of a picture share it, as published.

    Attributes:
        embeddings: (T, B, columns, width) floating, CPU, noisiest step first.
        text_scale: the scale they were found for.
        made_for: the trajectory they were found for.

    Raises:
        InvalidInput: the embeddings do not fit the trajectory, or are not finite.
    """

    embeddings: torch.Tensor
    text_scale: float
    made_for: Trajectory

    moves_states = False
    needs_plain_steps = True

    def __post_init__(self) -> None:
        shape, expected = tuple(self.embeddings.shape), _key(self.made_for)
        finite = bool(torch.isfinite(self.embeddings).all())
        if len(shape) != 4 or shape[:2] != expected or not finite:
            raise InvalidInput.of(
                "null-text embeddings",
                "do not fit the trajectory they are kept with",
                f"{shape}, {'finite' if finite else 'not finite'}",
                f"{expected} steps and pictures, columns, width; finite",
                "Invert again, and make them anew.",
            )

    def check(self, trajectory: Trajectory, branches: Branches) -> None:
        super().check(trajectory, branches)
        if trajectory.states is self.made_for.states:
            return
        for what, ours, theirs in (
            ("schedule", self.made_for.schedule.name, trajectory.schedule.name),
            ("steps and pictures", _key(self.made_for), _key(trajectory)),
            ("size", self.made_for.shape[1:], trajectory.shape[1:]),
        ):
            if ours != theirs:
                raise _mismatch(f"another {what}", f"{theirs}; made for {ours}")
        if self.made_for.schedule != trajectory.schedule:
            ours, theirs = (_range(t) for t in (self.made_for, trajectory))
            raise _mismatch("other noise levels", f"{theirs}; made for {ours}")
        for entry in (0, -1):
            ours, theirs = (t.states[entry].double() for t in (self.made_for, trajectory))
            difference = float((ours - theirs).norm() / ours.norm())
            if not difference < SAME_PICTURE:
                raise _mismatch(
                    "another picture or prompt", f"states that differ by {difference:.0%}"
                )

    def begin(self, run: Run) -> GuidedRun:
        if not math.isclose(run.text_scale, self.text_scale):
            raise InvalidInput.of(
                "text_scale",
                "is not the one that Null-Text Inversion optimised for",
                run.text_scale,
                f"{self.text_scale}",
                "Set the same text_scale on both nodes.",
            )
        return _NullTextRun(self.embeddings, run)


class _NullTextRun(GuidedRun):
    """Each step's own embedding in the negative prompt's place; SDXL's vector stays its own."""

    def __init__(self, embeddings: torch.Tensor, run: Run) -> None:
        super().__init__(run)
        self.embeddings = RecordedStates(embeddings, order=1)

    def prepare(self, x: torch.Tensor, step: Step) -> Request:
        own = PromptEmbedding(self.embeddings.at(step.index, like=x))
        return super().prepare(x, step)._replace(embedding=own)


def _key(trajectory: Trajectory) -> tuple[int, int]:
    """(steps, pictures)"""
    return len(trajectory.schedule.descent()), trajectory.shape[0]


def _range(trajectory: Trajectory) -> str:
    levels = trajectory.schedule.levels
    return f"sigmas {levels[0].k_sigma:.6g} to {levels[-1].k_sigma:.6g}"


def _mismatch(problem: str, got: str) -> TrajectoryMismatch:
    return TrajectoryMismatch.of(
        "trajectory",
        f"is not the one that Null-Text Inversion was made for: {problem}",
        got,
        "the same trajectory on both nodes",
        "Connect Null-Text Inversion's own trajectory output to NMG Sample.",
    )
