"""Edits of demo scenes with known answers, run through the nodes inside a real ComfyUI.

Used by the benchmarks beside it. Pictures are (N, 128, 128, 3) float32 numpy in 0..1.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

from demo import scenes  # noqa: E402
from demo.training import checkers  # noqa: E402
from tools.host_process import boot, node_classes  # noqa: E402

# The object's colour is read away from its soft edge.
_CORE_COVERAGE = 0.999
# Kinds of edit that are not called as the field of the scene that they change.
ATTRIBUTES = {"pattern": "background_type"}


@dataclass(frozen=True)
class Edit:
    """One edit with its true answer."""

    kind: str  # "colour", "shape", "background" or "pattern": the word that changes
    source: scenes.Scene
    target: scenes.Scene

    @property
    def attribute(self) -> str:
        """The field of the scene that changes."""
        return ATTRIBUTES.get(self.kind, self.kind)

    @property
    def may_change(self) -> np.ndarray:
        """(128, 128) bool: the true mask of the edit."""
        return scenes.mask(self.source, self.target)

    def succeeded(self, picture: np.ndarray) -> bool:
        """Whether the word that changed can be read from the picture."""
        if self.kind == "shape":
            return checkers.read_scene(picture).shape == self.target.shape
        if self.kind == "pattern":
            return checkers.read_scene(picture).background_type == self.target.background_type
        cover = scenes.coverage(self.source)
        if self.kind == "colour":
            return checkers.object_colour(picture, cover > _CORE_COVERAGE) == self.target.colour
        return checkers.background_colour(picture, cover > 0) == self.target.background


def draw_edits(
    count: int, seed: int, kinds: Sequence[str] = ("colour", "background")
) -> list[Edit]:
    """`count` edits, their kinds in turn; the scenes are not those of the training."""
    rng = np.random.default_rng(seed)
    return [_draw_edit(rng, kinds[index % len(kinds)]) for index in range(count)]


def draw_pattern_edits(count: int, seed: int) -> list[Edit]:
    """`count` edits of the background: stripes or dots are added, then removed, in turn."""
    rng = np.random.default_rng(seed)
    edits = []
    for index in range(count):
        scene = scenes.random_scene(rng)
        before, after = "plain", ("striped", "dotted")[index // 2 % 2]
        if index % 2:
            before, after = after, before
        source = scenes.edit(scene, "background_type", before)
        edits.append(Edit("pattern", source, scenes.edit(source, "background_type", after)))
    return edits


def _draw_edit(rng: np.random.Generator, kind: str) -> Edit:
    source = scenes.random_scene(rng)
    if kind == "shape":
        free = [name for name in scenes.shapes if name != source.shape]
    else:
        free = [name for name in scenes.colours if name not in (source.colour, source.background)]
    return Edit(kind, source, scenes.edit(source, kind, free[rng.integers(len(free))]))


class Sampled(NamedTuple):
    """What NMG Sample made."""

    pictures: np.ndarray  # the edits
    source: np.ndarray  # the source branch; without an editor the VAE round trip
    cost: dict[str, Any]


@cache
def demo_model() -> tuple[Any, Any, Any]:
    """Model, CLIP and VAE; after `boot()`."""
    with torch.inference_mode():
        return importlib.import_module("nmg_pack.nodes.demo").NMGDemoModel.execute().args


class Bench:
    """The demo model and the nodes, with the edits' pictures encoded as one batch."""

    def __init__(self, edits: list[Edit]) -> None:
        boot()
        self.nodes = node_classes()
        self.host_nodes = importlib.import_module("nodes")
        self.edits = edits
        self.made: dict[Any, Any] = {}  # what was made for these edits and can serve again
        self.model, self.clip, self.vae = demo_model()
        self.pictures = np.stack([scenes.render(edit.source) for edit in edits])
        self.latent = self.encode(self.pictures)
        self.round_trip = self.decode(self.latent)

    @cached_property
    def true_targets(self) -> np.ndarray:
        """The true answers, through the VAE as every result is."""
        return self.decode(self.encode(np.stack([scenes.render(e.target) for e in self.edits])))

    def prompts(self, captions: list[str]) -> list[Any]:
        """One CONDITIONING whose batch holds a prompt per picture."""
        encoded = [self.host_nodes.CLIPTextEncode().encode(self.clip, text)[0] for text in captions]
        tokens = torch.cat([condition[0][0] for condition in encoded])
        return [[tokens, encoded[0][0][1]]]

    @cached_property
    def source_prompts(self) -> list[Any]:
        return self.prompts([scenes.caption(edit.source) for edit in self.edits])

    @cached_property
    def target_prompts(self) -> list[Any]:
        return self.prompts([scenes.caption(edit.target) for edit in self.edits])

    @cached_property
    def empty_prompt(self) -> list[Any]:
        return self.prompts([""])

    def invert(self, steps: int, schedule: str) -> Any:
        """The trajectory of all pictures."""
        with torch.inference_mode():
            node = self.nodes.NMGInvert
            arguments = (self.model, self.source_prompts, self.latent, steps, schedule)
            return node.execute(*arguments).args[0]

    def sample(
        self, trajectory: Any, prompts: Any, text_scale: float, guidance: Any, mask: Any = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The pictures that NMG Sample makes, and what it cost."""
        sampled = self.edit(trajectory, prompts, text_scale, guidance, mask=mask)
        return sampled.pictures, sampled.cost

    def edit(
        self,
        trajectory: Any,
        prompts: Any,
        text_scale: float,
        guidance: Any,
        editor: Any = None,
        mask: Any = None,
    ) -> Sampled:
        """What NMG Sample makes, with an editor or without."""
        with torch.inference_mode():
            result = self.nodes.NMGSample.execute(
                self.model,
                trajectory,
                prompts,
                self.empty_prompt,
                text_scale,
                0.0,
                0.0,
                "fused",
                guidance=guidance,
                editor=editor,
                mask=mask,
            )
        pictures, source = (self.decode(latent) for latent in result.args)
        return Sampled(pictures, source, result.ui["nmg"][0])

    def encode(self, pictures: np.ndarray) -> dict[str, Any]:
        """A LATENT of pictures."""
        with torch.inference_mode():
            return {"samples": self.vae.encode(torch.from_numpy(pictures))}

    def decode(self, latent: dict[str, Any]) -> np.ndarray:
        """(N, 128, 128, 3) in 0..1."""
        with torch.inference_mode():
            return self.vae.decode(latent["samples"]).clamp(0, 1).float().cpu().numpy()


def psnr(true: np.ndarray, test: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two arrays in 0..1."""
    return float(peak_signal_noise_ratio(true, test, data_range=1.0))
