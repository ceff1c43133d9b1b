"""The host's guider for a run of branches: each prompt is processed as if it were alone."""

from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Branches, Prompt
from ..network.caches import without_caches
from ..network.conditions import Condition, Conditioning
from ..network.rows import Pair, one_each
from ..network.several import Target, negatives_of, one_target, targets_of
from .bound_prompts import BoundPrompts

Names = tuple[str, ...]  # of the prompts of one branch among the guider's: one, or one per picture


class BranchGuider(comfy.samplers.CFGGuider):
    """A guider whose prompts are those of a run's branches; caches are taken off its model.

    The host processes all prompts of a run together: it gives each the areas of the others, and the
    ControlNets of *positive* to those without, and sizes what travels with a picture (masked
    pictures, noise masks) by all rows. Right is what it makes of one prompt and the unconditional
    one for the pictures alone. So it is handed these, one pair after the other.

    Args:
        model: with its patches.
        conditions: the prompts by the name of their `Prompt`.
        branches: of the run.

    Raises:
        InvalidInput: there are more or fewer prompts than branches or pictures.
    """

    def __init__(
        self, model: ModelPatcher, conditions: dict[str, Conditioning], branches: Branches
    ) -> None:
        super().__init__(without_caches(model))
        self.branches = branches
        self._names: dict[str, list[Names]] = {}
        wires: dict[str, Conditioning] = {}
        for name, prompt in conditions.items():
            targets = _targets(name, prompt, branches)
            self._names[name] = [
                tuple(_called(name, number, line) for line in range(len(target)))
                for number, target in enumerate(targets)
            ]
            for names, target in zip(self._names[name], targets, strict=True):
                wires.update(zip(names, target, strict=True))
        # Here, so that the host loads what they bring along and knows their hooks.
        self.inner_set_conds(wires)
        self._unprocessed: dict[str, list[Condition]] = {}

    def inner_sample(self, *args: Any, **options: Any) -> torch.Tensor:
        self._unprocessed, self.conds = self.conds, {}
        return super().inner_sample(*args, **options)

    def bind(
        self,
        noise: torch.Tensor,
        latent: torch.Tensor,
        mask: torch.Tensor | None,
        seed: int | None,
    ) -> BoundPrompts:
        """The prompts for the network, once per run; with what a sampler of the host is given.

        Args:
            noise, latent: (rows, C, ...) of the whole run, in the model's own scale.
            mask: (rows, C, ...) the noise mask, or None.
            seed: of what the host draws for a prompt.

        Raises:
            InvalidInput: prompts of single pictures are not built alike.
        """
        alone = slice(0, self.branches.pictures)
        mask = None if mask is None else mask[alone]
        processing = _Processing(self, noise[alone], latent[alone], mask, seed)
        source, positive, negative = (
            self._names.get(prompt.value, [])
            for prompt in (Prompt.SOURCE, Prompt.POSITIVE, Prompt.NEGATIVE)
        )
        beside = negative or [()]
        sources = [processing.pair(names, beside[0]) for names in source]
        targets = [
            processing.pair(names, beside[place % len(beside)])
            for place, names in enumerate(positive)
        ]
        pairs = [*targets, *sources]
        bound = BoundPrompts(
            self.branches,
            sources[0] if sources else None,
            targets,
            pairs[0].negative if pairs else processing.pair(beside[0], ()).text,
            several_negatives=len(beside) > 1,
        )
        # What the host tidies up at the end, and others look at meanwhile.
        self.conds = {Prompt.POSITIVE.value: [*bound.conditions()]}
        return bound

    def unprocessed(self, name: str) -> list[Condition]:
        """A prompt as the host knows it before it is made for the network."""
        return self._unprocessed[name]


@dataclass(frozen=True, eq=False)
class _Processing:
    """What the host makes of prompts for the pictures of a run alone."""

    guider: BranchGuider
    noise: torch.Tensor
    latent: torch.Tensor
    mask: torch.Tensor | None
    seed: int | None

    def pair(self, text: Names, negative: Names) -> Pair:
        """A prompt and the unconditional one, if any, each one for all pictures or one for each."""
        made = [
            self._processed(text[place % len(text)], negative[place % len(negative)])
            if negative
            else self._processed(text[place], None)
            for place in range(max(len(text), len(negative)))
        ]
        texts = _joined([pair.text for pair in made], len(text), "positive")
        if not negative:
            return Pair(texts)
        return Pair(
            texts, _joined([pair.negative or [] for pair in made], len(negative), "negative")
        )

    def _processed(self, text: str, negative: str | None) -> Pair:
        given = {"positive": self.guider.unprocessed(text)}
        if negative is not None:
            given["negative"] = self.guider.unprocessed(negative)
        made = comfy.samplers.process_conds(
            self.guider.inner_model,
            self.noise,
            given,
            self.guider.model_patcher.load_device,
            self.latent,
            self.mask,
            self.seed,
            latent_shapes=[tuple(self.latent.shape)],
        )
        return Pair(made["positive"], made.get("negative"))


def _targets(name: str, prompt: Conditioning, branches: Branches) -> list[Target]:
    if name == Prompt.POSITIVE.value:
        return targets_of(prompt, branches.pictures)
    if name == Prompt.NEGATIVE.value:
        return negatives_of(prompt, branches)
    return [one_target(prompt, branches.pictures, name)]


def _called(name: str, number: int, line: int) -> str:
    """The first of each keeps the plain name, which others may look for."""
    return name if number == line == 0 else f"{name} {number}.{line}"


def _joined(texts: list[list[Condition]], count: int, name: str) -> list[Condition]:
    return texts[0] if count == 1 else one_each(texts, name)
