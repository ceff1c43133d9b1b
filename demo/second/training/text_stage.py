"""The text encoder, before the picture network: it names what a caption says of each object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from demo.second import scenes
from demo.second.training import networks
from demo.second.training.vocabulary import Vocabulary

_things = ("", *scenes.shapes)
_colours = ("", *scenes.colours)
_sizes = ("", *scenes.sizes)
# Answers of each readout; "" where the caption says nothing.
words = {
    "first_shape": _things,
    "first_colour": _colours,
    "first_size": _sizes,
    "second_shape": _things,
    "second_colour": _colours,
    "second_size": _sizes,
    "place": ("", *scenes.places, *scenes.relations),
    "background": _colours,
    "background_type": ("", *scenes.background_types),
}


def said(scene: scenes.Scene) -> dict[str, str]:
    """What the caption of `scene` says, a word of `words` under each key."""
    found = {"place": scene.place, "background": scene.background}
    found["background_type"] = scene.background_type
    for index, prefix in enumerate(("first", "second")):
        thing = scene.things[index] if index < len(scene.things) else None
        for key in ("shape", "colour", "size"):
            found[f"{prefix}_{key}"] = getattr(thing, key) if thing else ""
    return found


class TextStage:
    """Text encoder and attention readouts that name what the caption says.

    Without it the picture network ignores its text for its first tens of thousands of samples.
    """

    def __init__(
        self, kind: str, vocabulary: Vocabulary, batch: int, generator: torch.Generator
    ) -> None:
        self.name = f"text_{kind}"
        self.vocabulary = vocabulary
        self.batch = batch
        text = networks.make_text(kind, len(vocabulary.tokens), generator)
        width = networks.architectures[kind]["text"]["hidden_size"]
        readout = nn.ModuleDict(
            {key: _Readout(width, len(answers), generator) for key, answers in words.items()}
        )
        self.network = nn.ModuleDict({"text": text, "readout": readout})

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict]:
        batch = [scenes.random_scene(rng) for _ in range(self.batch)]
        rows = self.vocabulary.rows([scenes.caption(scene) for scene in batch])
        context = networks.encode_text(self.network["text"], rows)
        answers = [said(scene) for scene in batch]
        loss, worst = torch.zeros(()), 1.0
        for key, choices in words.items():
            target = torch.tensor([choices.index(answer[key]) for answer in answers])
            scores = self.network["readout"][key](context)
            loss = loss + nn.functional.cross_entropy(scores, target)
            worst = min(worst, float((scores.argmax(1) == target).float().mean()))
        return loss, {"worst_accuracy": worst}


class _Readout(nn.Module):
    """One learned query attends to the context; its answer is classified."""

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width, generator=generator) * 0.1)
        self.classify = nn.Linear(width, classes)
        networks.initialise(self.classify, generator)

    def forward(self, context: Tensor) -> Tensor:
        share = torch.softmax(context @ self.query, dim=1)
        return self.classify((share.unsqueeze(1) @ context).squeeze(1))
