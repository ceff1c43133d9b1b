"""Mask-guided mutual self-attention of MasaCtrl, arXiv 2304.08465: object to object.

    out = m softmax(Q K_f^T / sqrt(d)) V_f + (1 - m) softmax(Q K_b^T / sqrt(d)) V_b

K_f, V_f are the source's keys and values in its foreground, K_b, V_b those in its background, m is
the target's mask at each query. Keys are left out instead of masked, so the network's own kernel
computes both, and both together cost what one attention over all keys does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from ..contract.attention import AttentionCall, AttentionLayer, probabilities, shows_words
from ..contract.branches import Branches
from ..contract.column_maps import ColumnMaps, Columns
from ..errors import InvalidInput


def check_region(name: str, mask: torch.Tensor) -> None:
    """Raises InvalidInput unless `mask` is (any, 1, h, w), not empty, all in 0..1."""
    if mask.ndim != 4 or mask.shape[1] != 1 or not mask.numel():
        raise InvalidInput.of(
            name, "is no mask", tuple(mask.shape), "(B or 1, 1, h, w)", "Connect a MASK."
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = float(mask.min()), float(mask.max())
        raise InvalidInput.of(
            name, "leaves its range", f"{low:.4g} to {high:.4g}", "0 to 1", "Clamp it."
        )


def rows_of_edits(name: str, mask: torch.Tensor | None, branches: Branches) -> torch.Tensor | None:
    """A mask once for each row of the target branches: (targets * B, 1, h, w) float32, CPU.

    Raises:
        InvalidInput: it is neither one for all pictures nor one for each.
    """
    if mask is None:
        return None
    if len(mask) not in (1, branches.pictures):
        raise InvalidInput.of(
            name,
            "does not fit the pictures",
            f"{len(mask)} masks for {branches.pictures} pictures",
            f"1 or {branches.pictures}",
            "Give one mask for all, or one for each.",
        )
    each = mask.float().cpu().expand(branches.pictures, -1, -1, -1)
    return Branches(branches.pictures, branches.targets).repeat(each)


@dataclass(frozen=True, eq=False)
class _Group:
    """Target rows whose source has the same foreground."""

    rows: torch.Tensor  # (n,) rows among those of the target branches
    # (n,) keys of the foreground and of the background; None where one of them has no keys.
    sides: tuple[torch.Tensor, torch.Tensor] | None


class Regions:
    """Source and target masks, brought to each size of cells once.

    Args:
        source, target: (targets * B, 1, h, w) 0..1, CPU.
    """

    def __init__(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self.source, self.target = source, target
        self._fitted: dict[tuple, tuple[list[_Group], torch.Tensor]] = {}

    @classmethod
    def of(cls, source: torch.Tensor | None, target: torch.Tensor | None) -> "Regions | None":
        """One mask alone stands for both: an object that stays where it is."""
        if source is None and target is None:
            return None
        return cls(target if source is None else source, source if target is None else target)

    def at(self, size: tuple[int, int], like: torch.Tensor) -> tuple[list[_Group], torch.Tensor]:
        """(groups of rows, (targets * B, queries, 1) target mask) for a layer's cells."""
        key = size, like.device, like.dtype
        if key not in self._fitted:
            share = _resized(self.target, size)[..., None]
            groups = _groups(_resized(self.source, size) >= 0.5, like.device)
            self._fitted[key] = groups, share.to(like)
        return self._fitted[key]


def _resized(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(rows, cells): the covered part of each cell.

    By area, so that a cell belongs to the foreground if half of it does; a nearest pixel would let
    thin things vanish or fill a cell.
    """
    return interpolate(mask, size, mode="area").flatten(1)


def _groups(foreground: torch.Tensor, device: torch.device) -> list[_Group]:
    """Rows by their source's foreground, (rows, keys) bool.

    Where all or nothing is foreground, one side has no keys: such rows attend to all of them.
    """
    patterns, kinds = torch.unique(foreground, dim=0, return_inverse=True)
    groups = []
    for kind, inside in enumerate(patterns):
        rows = (kinds == kind).nonzero()[:, 0].to(device)
        sides = [side.nonzero()[:, 0].to(device) for side in (inside, ~inside)]
        divided = all(len(side) for side in sides)
        groups.append(_Group(rows, (sides[0], sides[1]) if divided else None))
    return groups


def mutual_attention(call: AttentionCall, regions: Regions | None = None) -> torch.Tensor:
    """A self-attention layer's result with the source's keys and values for all branches.

    The source's own rows are what they are without an editor; masks are for the targets alone.
    """
    source, edits = call.branches.source_rows, call.branches.target_rows
    fitted = None if regions is None else regions.at(call.size, call.q)
    if fitted is None or all(group.sides is None for group in fitted[0]):
        k, v = (call.branches.repeat(each[source]) for each in (call.k, call.v))
        return call.attend(call.q, k, v)
    # Tokens before heads, so that rows and keys can be picked out together.
    queries, k, v = (
        each.transpose(1, 2) for each in (call.q[edits], call.k[source], call.v[source])
    )
    results = torch.empty_like(queries)
    groups, share = fitted
    for group in groups:
        q, pictures = queries[group.rows], group.rows[:, None] % call.branches.pictures
        parts = [
            call.attend(*(x.transpose(1, 2) for x in (q, k[pictures, keys], v[pictures, keys])))
            for keys in group.sides or (torch.arange(k.shape[1], device=k.device),)
        ]
        # Exact at both ends: where the target mask is 0 or 1 it is one of the two.
        mixed = torch.lerp(parts[-1], parts[0], share[group.rows][:, None])
        results[group.rows] = mixed.transpose(1, 2)
    theirs = call.attend(call.q[source], call.k[source], call.v[source])
    return torch.cat([theirs, results.transpose(1, 2)])


class ObjectMaps:
    """Where the words of the object look, summed over layers and steps so far.

    Args:
        words: per target, embedding columns of the source prompt and of the target prompt.
        latent: (height, width) of the states.
    """

    def __init__(self, words: tuple[tuple[Columns, Columns], ...], latent: Sequence[int]) -> None:
        self.latent = latent
        self.found = ColumnMaps([columns for pair in words for columns in pair])

    @property
    def seen(self) -> bool:
        return self.found.total is not None

    def sees(self, layer: AttentionLayer) -> bool:
        return shows_words(layer, self.latent)

    def add(self, call: AttentionCall) -> None:
        """The maps of one cross-attention layer under the prompts."""
        source, *targets = [
            probabilities(q, k[:, :, :length]).mean(1)
            for q, k, length in zip(
                call.branches.split(call.q), call.branches.split(call.k), call.columns, strict=True
            )
        ]
        self.found.add([each for target in targets for each in (source, target)], call.size)

    def masks(self, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target masks, (targets * B, 1, h, w) of 0 and 1, float32, CPU.

        A map is normalised from its minimum to its maximum; one that is flat shows nothing.
        """
        # (targets * 2, B, h, w), source and target in turn, as (2, targets * B, 1, h, w).
        sides = self.found.total.unflatten(0, (-1, 2)).transpose(0, 1).flatten(1, 2)[:, :, None]
        source, target = (_normalised(each) >= threshold for each in sides)
        return source.float().cpu(), target.float().cpu()


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    low, high = (bound(maps, (2, 3), keepdim=True) for bound in (torch.amin, torch.amax))
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
