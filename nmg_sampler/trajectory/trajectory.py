"""The trajectory: a picture as the noise maps that an inversion went through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from ..errors import InvalidInput, TrajectoryMismatch
from .levels import Family
from .schedule import Schedule

# How far apart two states of one picture may be, of a state's norm. Rounding to half precision, as
# files do, is below 1e-3; another picture is 1.
SAME_PICTURE = 0.01


@dataclass(frozen=True)
class ModelIdentity:
    """What a trajectory can only be used with.

    Attributes:
        family: how signal and noise are mixed.
        prediction: what the network predicts ("eps", "v"), for the reader.
        latent_format: the host's name of the latent space.
        fingerprint: a short hash of the weights as they are merged, without LoRAs.
    """

    family: Family
    prediction: str
    latent_format: str
    fingerprint: str


class Kind(str, Enum):
    """How the states of a trajectory hang together."""

    PATH = "path"  # each is reached from the one below it, so that a run can follow them
    DRAWN = "drawn"  # each has noise of its own: they lead nowhere but under the method they suit


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The states of one inversion, from the source latent (entry 0) to the noisiest.

    Never written to: who needs another one makes it.

    Attributes:
        states: (T + 1, B, C, ...) floating, CPU, states alpha * x0 + sigma * eps of the schedule's
            levels, in the model's latent space.
        schedule: the levels of the entries and how to sample back.
        model: what it was made with.
        source: the conditioning of the source prompt; nested dicts, lists, numbers and tensors.
        noise_mask: (B or 1, 1, ...) 0..1, or None: where the source latent may change at all.
        extras: what a method found out about this inversion and wants to use again, by a name of
            its own; CPU.
        kind: how the states hang together.

    Raises:
        InvalidInput: shapes do not fit each other, or a state is not finite.
    """

    states: torch.Tensor
    schedule: Schedule
    model: ModelIdentity
    source: Any = None
    noise_mask: torch.Tensor | None = None
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: Kind = Kind.PATH

    def __post_init__(self) -> None:
        expected = len(self.schedule.levels)
        if self.states.ndim < 3 or self.states.shape[0] != expected:
            raise InvalidInput.of(
                "trajectory states",
                "do not fit the schedule",
                tuple(self.states.shape),
                f"({expected}, batch, channels, ...)",
                "Invert again.",
            )
        if not bool(torch.isfinite(self.states).all()):
            raise InvalidInput.of(
                "trajectory states", "are not finite", "NaN or infinity", "numbers", "Invert again."
            )

        if self.noise_mask is not None:
            check_mask("noise_mask", self.noise_mask, self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, ...) of one state."""
        return tuple(self.states.shape[1:])

    def check_path(self) -> None:
        """Raises InvalidInput if the states are drawn one by one: there is no path to follow."""
        if self.kind is not Kind.PATH:
            raise InvalidInput.of(
                "trajectory",
                "is of the wrong kind",
                "that of Edit-Friendly Inversion, whose states are drawn one by one",
                "noise maps on a path, as NMG Invert makes them",
                "Connect the guidance of Edit-Friendly Inversion as well, or use NMG Invert.",
            )

    def check_fits(self, model: ModelIdentity) -> None:
        """Raises TrajectoryMismatch, naming each difference with both values."""
        differences = [
            f"{_words(name)}: trajectory {_text(ours)}, model {_text(theirs)}"
            for name, ours in vars(self.model).items()
            if ours != (theirs := getattr(model, name))
        ]
        if differences:
            raise TrajectoryMismatch.of(
                "trajectory",
                "was made with another model",
                "; ".join(differences),
                "the model it was made with (LoRAs may differ; a merge is another model)",
                "Connect that model, or invert the picture again with this one.",
            )


def check_mask(name: str, mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raises InvalidInput unless `mask` is (B or 1, 1, ...) for states of `shape`, all in 0..1."""
    batch, _, *spatial = shape
    fits = mask.ndim == len(shape) and list(mask.shape[2:]) == spatial
    if not fits or mask.shape[0] not in (1, batch) or mask.shape[1] != 1:
        raise InvalidInput.of(
            name,
            "does not fit the trajectory",
            tuple(mask.shape),
            f"(1 or {batch}, 1, {', '.join(map(str, spatial))})",
            "Resize it to the latent.",
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = float(mask.min()), float(mask.max())
        raise InvalidInput.of(
            name, "leaves its range", f"{low:.4g} to {high:.4g}", "0 to 1", "Clamp it."
        )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: object) -> str:
    return repr(value.value if isinstance(value, Family) else value)
