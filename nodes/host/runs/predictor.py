"""The library's predictor over the host's sampling path."""

import math
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
    Rows,
)
from ....nmg_sampler.trajectory import eps_to_x0, state_to_k, x0_to_eps
from ..gradient.passes import GradientPasses
from ..network.attention import AttentionLayers, EditedAttention, attention_layers
from ..network.branches import merge
from ..network.compiled import uncompiled
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
        # What the branches named by `rows` are guided to, by the host's name for it: positive.
        self._texts = {Rows.TARGETS: guider.conds.get(Prompt.POSITIVE.value)}
        self._texts[Rows.ALL] = self._texts[Rows.TARGETS]
        if branches.with_source and branches.targets:
            self._texts[Rows.SOURCE] = guider.conds[Prompt.SOURCE.value]
            self._texts[Rows.ALL] = merge(
                self._texts[Rows.SOURCE], self._texts[Rows.TARGETS], branches
            )

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

    def guided(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        text_scale: float,
        negative: torch.Tensor | None = None,
        rows: Rows = Rows.ALL,
        attention: AttentionEdit | None = None,
        embedding: PromptEmbedding | None = None,
        needs_negative: bool = False,
    ) -> Guided:
        comfy.model_management.throw_exception_if_processing_interrupted()
        seen: dict[str, torch.Tensor | None] = {}

        def look(args: dict[str, Any]) -> torch.Tensor:
            seen["negative"] = None if args["uncond"] is None else args["uncond_denoised"]
            return args["denoised"]

        with self._edited(attention, rows) as edited:
            options = {**edited, _POST: [look, *edited.get(_POST, [])]}
            known = negative is not None and _CALC not in options
            if known:
                options[_CALC] = self._with_known_negative(eps_to_x0(x, negative, level))
            elif needs_negative:
                options[_BOTH] = True
            single = known or (math.isclose(text_scale, 1) and not options.get(_BOTH))
            self._count(len(x) * (1 if single else 2))
            denoised = self._guide(x, level, text_scale, rows, embedding, options)
        eps = x0_to_eps(x, denoised, level)
        told = seen.get("negative")  # absent where a patch answers from a cache
        if negative is None and told is not None:
            negative = x0_to_eps(x, told, level)
        return Guided(eps, negative)

    def _count(self, rows: int) -> None:
        self.cost.forward_calls += 1
        self.cost.forward_rows += rows // self.branches.pictures

    def _guide(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        text_scale: float,
        rows: Rows,
        embedding: PromptEmbedding | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """The denoised latent by the guider, the branches' own text in the place of positive."""
        conditions = self.guider.conds
        self.guider.set_cfg(text_scale)
        self.guider.conds = {
            **conditions,
            Prompt.POSITIVE.value: self._texts[rows],
            Prompt.NEGATIVE.value: self._conditions(Prompt.NEGATIVE, embedding),
        }
        try:
            return self.guider(state_to_k(x, level), _sigma(x, level), options, self.seed)
        finally:
            self.guider.conds = conditions

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
        edited = EditedAttention(attention, branches, columns, self._attention_layers)
        options = uncompiled(self.model_options)
        return edited.inside(self.guider.inner_model.diffusion_model, options)

    @cached_property
    def _attention_layers(self) -> AttentionLayers:
        return attention_layers(self.guider.inner_model.diffusion_model)

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
