"""The library's predictor over the host's sampling path."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import comfy.model_management
import comfy.samplers
import torch

from ....nmg_sampler import (
    AttentionEdit,
    Branches,
    Guided,
    NoiseLevel,
    Prompt,
    PromptEmbedding,
    Request,
    Rows,
)
from ....nmg_sampler.contract import AttentionLoss, joined, loss_gradient
from ....nmg_sampler.editors import map_bytes
from ....nmg_sampler.trajectory import eps_to_x0, state_to_k, x0_to_eps
from ..gradient.passes import GradientPasses
from ..network.branches import merge
from ..network.compiled import uncompiled
from ..network.conditions import Condition
from ..network.door import Door, door_to
from ..network.embedding import embedding_of, with_embedding

_CALC = "sampler_calc_cond_batch_function"
_POST = "sampler_post_cfg_function"
_BOTH = "disable_cfg1_optimization"  # both prompts are asked, at scale 1 as well


@dataclass
class Cost:
    """Network evaluations of a run; a row is one prompt for all pictures of the batch."""

    forward_calls: int = 0
    forward_rows: int = 0
    backward_rows: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class HostPredictor:
    """Predictions of a model that the host has loaded, with every patch and condition on it.

    A single prompt goes through `calc_cond_batch`: areas, time ranges, hooks, ControlNets and
    patches of the network apply. Patches of the guidance rule (PAG, RescaleCFG, ...) do not: an
    inversion follows the bare prediction. `guided` goes through the guider, where they do.

    Args:
        guider: a CFGGuider in the middle of `sample`, its conditions named as `Prompt`.
        model_options: those the host cloned for this run.
        seed: handed on to the host.
        branches: what the rows of the run's states are.
        columns: prompt length of each branch, in embedding columns.
    """

    def __init__(
        self,
        guider: comfy.samplers.CFGGuider,
        model_options: dict[str, Any],
        seed: int | None,
        branches: Branches,
        columns: tuple[int, ...] = (),
    ) -> None:
        self.guider = guider
        self.model_options = model_options
        self.seed = seed
        self.branches = branches
        self.columns = columns
        self.cost = Cost()
        self._told_of_maps = False

    def embedding(self, prompt: Prompt) -> PromptEmbedding:
        embedding = embedding_of(self.guider.conds[prompt.value], prompt)
        device = self.guider.model_patcher.load_device
        return PromptEmbedding(*(e if e is None else e.to(device) for e in embedding))

    def eps(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        attention: AttentionEdit | None = None,
        embedding: PromptEmbedding | None = None,
    ) -> torch.Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        x_k, sigma = state_to_k(x, level), _sigma(x, level)
        self._count(len(x))
        rows = Rows.SOURCE if prompt is Prompt.SOURCE else Rows.TARGETS
        asked = x.requires_grad or (embedding is not None and embedding.tokens.requires_grad)
        with self._edited(attention, rows) as options:
            if torch.is_grad_enabled() and asked:
                denoised = self.gradients.denoised(
                    x_k, sigma, prompt, embedding, options, collects=attention is not None
                )
                self.cost.backward_rows += len(x) // self.branches.pictures
            else:
                conditions = self._conditions(prompt, embedding)
                denoised = _predict(self.guider, prompt, conditions, x_k, sigma, options)
        return x0_to_eps(x, denoised, level)

    def _conditions(
        self, prompt: Prompt, embedding: PromptEmbedding | None
    ) -> list[dict[str, Any]]:
        conditions = self.guider.conds[prompt.value]
        return conditions if embedding is None else with_embedding(conditions, prompt, embedding)

    def guided(self, request: Request) -> Guided:
        return joined([self._guided(part) for part in request.by_scale(self.branches)])

    def _guided(self, request: Request) -> Guided:
        """Text guidance of one scale."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        x, level, negative = request.x, request.level, request.negative
        seen: dict[str, torch.Tensor | None] = {}

        def look(args: dict[str, Any]) -> torch.Tensor:
            seen["negative"] = None if args["uncond"] is None else args["uncond_denoised"]
            return args["denoised"]

        with self._edited(request.attention, request.rows) as edited:
            options = {**edited, _POST: [look, *edited.get(_POST, [])]}
            known = negative is not None and _CALC not in options
            if known:
                options[_CALC] = self._with_known_negative(eps_to_x0(x, negative, level))
            elif request.needs_negative:
                options[_BOTH] = True
            single = known or (math.isclose(request.text_scale, 1) and not options.get(_BOTH))
            self._count(len(x) * (1 if single else 2))
            denoised = self._guide(request, options)
        eps = x0_to_eps(x, denoised, level)
        told = seen.get("negative")  # absent where a patch answers from a cache
        if negative is None and told is not None:
            negative = x0_to_eps(x, told, level)
        return Guided(eps, negative)

    def loss_gradient(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        loss: Callable[[], AttentionLoss],
        embedding: PromptEmbedding | None = None,
    ) -> torch.Tensor:
        self._tell_of_maps(x)
        # The loss grows in the middle of the network's pass: where that does not fit into memory
        # the whole of it is made again, by a smaller plan.
        return self.gradients.memory.attempt(
            lambda: loss_gradient(self, x, level, prompt, loss(), embedding)
        )

    def _tell_of_maps(self, x: torch.Tensor) -> None:
        """Says once per run how much memory attention maps will take."""
        if self._told_of_maps:
            return
        self._told_of_maps = True
        layers = self._door.word_maps(x.shape[2:])
        rows = self.branches.targets * self.branches.pictures
        logging.info(
            "NMG gradient pass: a step holds %.0f MB of attention maps, and the model's activations"
            " for the backward pass.",
            map_bytes(layers, max(self.columns), rows) / 1e6,
        )

    def _count(self, rows: int) -> None:
        self.cost.forward_calls += 1
        self.cost.forward_rows += rows // self.branches.pictures

    def _guide(self, request: Request, options: dict[str, Any]) -> torch.Tensor:
        """The denoised latent by the guider, the branches' own text in the place of positive."""
        x, level = request.x, request.level
        conditions = self.guider.conds
        self.guider.set_cfg(request.text_scale)
        self.guider.conds = {
            **conditions,
            Prompt.POSITIVE.value: self._text(request.rows),
            Prompt.NEGATIVE.value: self._conditions(Prompt.NEGATIVE, request.embedding),
        }
        try:
            return self.guider(state_to_k(x, level), _sigma(x, level), options, self.seed)
        finally:
            self.guider.conds = conditions

    def _text(self, rows: Rows) -> list[Condition] | None:
        """What the branches named by `rows` are guided to, each to its own prompt."""
        source_too = self.branches.with_source and self.branches.targets
        if source_too and rows is Rows.SOURCE:
            return self.guider.conds[Prompt.SOURCE.value]
        if source_too and rows is Rows.ALL:
            return self._merged
        return self.guider.conds.get(Prompt.POSITIVE.value)

    @cached_property
    def _merged(self) -> list[Condition]:
        """The prompts of all branches as one condition: one row for each picture of each."""
        conditions = self.guider.conds
        source, positive = (conditions[p.value] for p in (Prompt.SOURCE, Prompt.POSITIVE))
        return merge(source, positive, self.branches)

    def _edited(
        self, attention: AttentionEdit | None, rows: Rows
    ) -> AbstractContextManager[dict[str, Any]]:
        """The model options of a prediction in which `attention` has its say."""
        if attention is None:
            return nullcontext(self.model_options)
        branches = self.branches.part(rows)
        columns = {Rows.ALL: self.columns, Rows.SOURCE: self.columns[:1]}.get(
            rows, self.columns[self.branches.with_source :]
        )
        return self._door.inside(attention, branches, columns, uncompiled(self.model_options))

    @cached_property
    def _door(self) -> Door:
        door = door_to(self.guider.inner_model.diffusion_model)
        if door is None:
            raise TypeError("an attention edit was let through to a network without a door")
        return door

    def _with_known_negative(self, denoised: torch.Tensor) -> Any:
        def calc(args: dict[str, Any]) -> list[torch.Tensor]:
            options = {key: value for key, value in args["model_options"].items() if key != _CALC}
            given = args["conds"][0], args["input"], args["sigma"]
            positive = _predict(self.guider, Prompt.POSITIVE, *given, options)
            return [positive, denoised]

        return calc

    @cached_property
    def gradients(self) -> GradientPasses:
        """The differentiable predictions of this run."""
        # Not a method of this object, which would then keep itself, the guider and the model alive.
        return GradientPasses(self.guider, partial(_predict, self.guider))


def _predict(
    guider: comfy.samplers.CFGGuider,
    prompt: Prompt,
    conditions: list[dict[str, Any]],
    x_k: torch.Tensor,
    sigma: torch.Tensor,
    options: dict[str, Any],
) -> torch.Tensor:
    """The denoised latent under one prompt."""
    # Patches such as IPAdapter tell the prompts apart by their place: text 0, unconditional 1.
    place = int(prompt is Prompt.NEGATIVE)
    both = [None, conditions] if place else [conditions, None]
    return comfy.samplers.calc_cond_batch(guider.inner_model, both, x_k, sigma, options)[place]


def _sigma(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """The level as the host wants it: (B,) float32."""
    return torch.full((x.shape[0],), level.k_sigma, dtype=torch.float32, device=x.device)
