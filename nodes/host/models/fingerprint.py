"""A short hash that tells one model from another, whatever the host has put on it."""

import hashlib
import json

import torch
from comfy.model_patcher import ModelPatcher

from .merges import merged, merges_of, moves, recipe

# So many weight vectors, evenly spaced by name, tell models apart.
_WEIGHTS = 24
# What torch.compile puts into the names of the weights below it.
_COMPILED = "_orig_mod."


def fingerprint(model: ModelPatcher) -> str:
    """A hash of architecture and of some weight vectors, merged, with other patches taken off.

    Vectors only: they are cheap to read, and LoRAs leave them alone; those that a patch did
    change are read from the host's backup. A merge is another model: its vectors are hashed as
    the host merges them, so that what it is saved to has the same hash. Kinds of blocks whose
    share of the models none of these vectors has are hashed in addition: no file of such a merge
    has that hash.
    """
    weights = _Weights(model)
    vectors = sorted(name for name, value in weights.values.items() if value.ndim == 1)
    sample = vectors[:: max(1, len(vectors) // _WEIGHTS)]
    digest = hashlib.sha256()
    config = {k: str(v) for k, v in model.model.model_config.unet_config.items() if k != "dtype"}
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name in sample:
        digest.update(_half(weights.merged(name)))
    seen = {weights.recipe(name) for name in sample}
    unseen = sorted(name for name in weights.values if weights.recipe(name) not in seen)
    if unseen and any(weights.moves(name) for name in (*sample, *unseen)):
        for name in unseen:
            digest.update(f"{name} {weights.recipe(name)}".encode())
            if weights.values[name].ndim == 1:
                digest.update(_half(weights.merged(name)))
    return digest.hexdigest()[:16]


class _Weights:
    """The weights of a model's network by name, without patches, and what its merges make."""

    def __init__(self, model: ModelPatcher) -> None:
        self._device = model.load_device
        self.values = {
            name.replace(_COMPILED, ""): value
            for name, value in model.model.diffusion_model.named_parameters()
        }
        self._merges = {}
        for name in self.values:
            key = f"diffusion_model.{name}"
            if key in model.backup:
                self.values[name] = model.backup[key].weight
            self._merges[name] = merges_of(model.patches.get(key, ()))

    def recipe(self, name: str) -> tuple:
        return recipe(self._merges[name])

    def moves(self, name: str) -> bool:
        return moves(self.values[name], self._merges[name])

    def merged(self, name: str) -> torch.Tensor:
        key = f"diffusion_model.{name}"
        return merged(self.values[name], self._merges[name], key, self._device)


def _half(weight: torch.Tensor) -> bytes:
    if weight.is_meta:
        return b""
    return weight.detach().to("cpu", torch.float16).numpy().tobytes()
