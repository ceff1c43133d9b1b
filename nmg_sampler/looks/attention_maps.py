"""Where the model sees a word: cross-attention of its columns, over layers and levels."""

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

from .. import checks
from ..contract.attention import AttentionCall, AttentionLayer, probabilities, shows_words
from ..contract.column_maps import ColumnMaps, Columns
from ..contract.events import OnStep, StepEvent, check_finite
from ..contract.predictor import Predictor, Prompt
from ..trajectory.levels import eps_to_x0
from ..trajectory.schedule import Schedule
from ..trajectory.trajectory import Trajectory

# Noise over picture in the states that are looked at: levels 12 to 28 of 50 of Stable Diffusion
# 1.x. On the demo model words are found equally well up to there and worse above, where there is
# hardly a picture left; close to the picture attention follows texture.
_LOWEST, _HIGHEST = 0.62, 1.86


class _Recording:
    """An attention edit that changes nothing and adds up the maps of one resolution."""

    def __init__(self, maps: ColumnMaps, latent: Sequence[int], factor: int) -> None:
        self.maps, self.latent, self.factor = maps, latent, factor

    def wants(self, layer: AttentionLayer) -> bool:
        return shows_words(layer, self.latent, self.factor)

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        mean = probabilities(call.q, call.k[:, :, : call.columns[0]]).mean(1)
        self.maps.add([mean] * len(self.maps.words), call.size)
        return call.plain()


def word_entries(schedule: Schedule, count: int) -> tuple[int, ...]:
    """At most `count` entries of a trajectory in whose states words are looked for, ascending.

    Args:
        schedule: of the trajectory.
        count: 1 or more.
    """
    last = len(schedule.query_levels) - 1  # the noisiest state was never shown to the network
    entries = schedule.entries_by_noise(_LOWEST, _HIGHEST, count)
    return tuple(sorted({min(entry, last) for entry in entries}))


@torch.no_grad()
def word_maps(
    trajectory: Trajectory,
    predictor: Predictor,
    words: Sequence[Columns],
    entries: Sequence[int],
    *,
    factor: int = 0,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Where the model sees words of the source prompt while it inverts the picture.

    Each recorded state is shown to it at the level the inversion asked at. Cost: one network row of
    a picture per entry, no gradient.

    Args:
        trajectory: of the pictures.
        predictor: the network with the source prompt bound.
        words: per word the embedding columns of its tokens.
        entries: which states are looked at; all but the last can be.
        factor: which layers: see `attention.shows_words`.
        device: where the states live during the run.
        on_step: called after each entry.

    Returns:
        (words, pictures, height, width) probabilities, the mean over entries, heads and layers, at
        the resolution of these layers; float32 at least.

    Raises:
        NotFinite: the model answered with NaN or infinity.
    """
    maps = ColumnMaps(words)
    edit = _Recording(maps, trajectory.shape[2:], factor)
    for index, entry in enumerate(entries):
        level = trajectory.schedule.query_levels[entry]
        x = trajectory.states[entry].to(device)
        eps = predictor.eps(x, level, Prompt.SOURCE, edit)
        check_finite(eps, "prediction", index, len(entries), level)
        if on_step is not None:
            on_step(StepEvent(index, len(entries), level, x, eps_to_x0(x, eps, level)))
    return maps.mean()


def masks_of(maps: torch.Tensor, size: tuple[int, int], threshold: float = 0.0) -> torch.Tensor:
    """Maps as masks: brought to `size`, each divided by its maximum, and cut if wanted.

    Args:
        maps: (words, pictures, height, width) floating, 0 or more.
        size: (height, width) of the masks.
        threshold: 0..1; 0 keeps them soft, else a mask is 1 where it reaches it and 0 elsewhere.

    Returns:
        (words, pictures, *size) 0..1, dtype of the maps.

    Raises:
        InvalidInput: the threshold leaves its range.
    """
    checks.share("threshold", threshold, "0 keeps the maps soft.")
    # Between cells cubic interpolation swings below 0 and above the largest cell.
    smooth = interpolate(maps, size, mode="bicubic", align_corners=False).clamp_min(0)
    peak = smooth.amax((2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    masks = smooth / peak
    return masks if threshold == 0 else (masks >= threshold).to(maps.dtype)
