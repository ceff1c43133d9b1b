"""What a run tells the outside after each step, and how it stops when numbers go bad."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..errors import NotFinite
from ..trajectory.levels import NoiseLevel


@dataclass(frozen=True, eq=False)
class StepEvent:
    """State after step `index` of `total`: read-only, the only channel to bars and previews."""

    index: int
    total: int
    level: NoiseLevel
    x: torch.Tensor  # (B, C, ...) at `level`
    x0: torch.Tensor  # (B, C, ...) the predicted clean latent
    # (pictures, C, ...) that of the source branch, beside those of the edits; None without one.
    source_x0: torch.Tensor | None = field(default=None, kw_only=True)


OnStep = Callable[[StepEvent], None]


def check_finite(
    values: torch.Tensor, what: str, index: int, total: int, level: NoiseLevel
) -> None:
    """Raises NotFinite with step, level and count if any value is NaN or infinite."""
    if bool(torch.isfinite(values).all()):
        return
    bad = int((~torch.isfinite(values)).sum())
    raise NotFinite(
        f"the model's {what} is not finite at step {index + 1} of {total}"
        f" (sigma {level.k_sigma:.4g}). Got {bad} NaN or infinite of {values.numel()}; expected"
        " none. Run the model in float32 (--force-fp32), lower the scales, or check the latent."
    )
