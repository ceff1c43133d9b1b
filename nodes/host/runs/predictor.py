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
from ..network.clean_outside import CleanOutside
from ..network.compiled import uncompiled
from ..network.conditions import Condition
from ..network.door import Door, door_to
from ..network.embedding import embedding_of, with_embedding
from ..network.keyframes import Keyframes
from ..network.patches import CALC, PRE, check_memory, in_one_call, sees_both, sees_guidance
from ..network.rows import Pair
from .bound_prompts import BoundPrompts
from .guider import BranchGuider

_MASK = "denoise_mask_function"
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
    inversion follows the bare prediction. `guided` goes through the guider, where they do. What may
    look at text and negative prompt together is shown both in every call that the host's sampler
    would make for both, also where only one of them is wanted. Prompts that one call cannot take
    are asked for one after the other.

    Args:
        guider: in the middle of `sample`.
        prompts: those of the run's branches, bound by the guider.
        model_options: those the host cloned for this run.
        seed: handed on to the host.
        sigmas: the levels of the run, noisiest first, on its device.
        columns: prompt length of each branch, in embedding columns, where an editor wants to know.
    """

    def __init__(
        self,
        guider: BranchGuider,
        prompts: BoundPrompts,
        model_options: dict[str, Any],
        seed: int | None,
        sigmas: torch.Tensor,
        columns: tuple[int, ...] = (),
    ) -> None:
        self.guider = guider
        self.prompts = prompts
        self.model_options = model_options
        self.seed = seed
        self.sigmas = sigmas
        self.branches = guider.branches
        self.columns = columns
        self.cost = Cost()
        self._told_of_maps = False
        self._outside: CleanOutside | None = None
        self._keyframes = Keyframes(guider.model_patcher, prompts.conditions(), model_options)
        if columns and self.branches.targets:
            prompts.check_one_call()  # as an editor needs, before anything is asked of the network

    @classmethod
    def of_run(
        cls,
        guider: BranchGuider,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        noise: torch.Tensor,
        latent: torch.Tensor,
        mask: torch.Tensor | None,
        columns: tuple[int, ...],
    ) -> "HostPredictor":
        """The predictor for what the host hands to a sampler.

        Raises:
            InvalidInput: the prompts are not built as the run needs them.
        """
        options, seed = extra_args["model_options"], extra_args.get("seed")
        prompts = guider.bind(noise, latent, mask, seed)
        made = cls(guider, prompts, options, seed, sigmas, columns)
        if mask is not None and CleanOutside.asks_for_it(guider.inner_model):
            mask_at = partial(made._mask_at, mask)
            made._outside = CleanOutside(guider.inner_model, latent, mask_at)
        return made

    def embedding(self, prompt: Prompt) -> PromptEmbedding:
        source = self.prompts.source
        known = {Prompt.SOURCE: source and source.text, Prompt.NEGATIVE: self.prompts.negative}
        embedding = embedding_of(known[prompt] or [], prompt)
        device = self.guider.model_patcher.load_device
        return PromptEmbedding(*(e if e is None else e.to(device) for e in embedding))

    def noise_mask_at(self, mask: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        return self._mask_at(mask, _sigma(mask, level))

    def _mask_at(self, mask: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The noise mask at a level as patches of the model have it (Differential Diffusion)."""
        changed = self.model_options.get(_MASK)
        if changed is None:
            return mask
        return changed(sigma, mask, extra_options={"model": self.guider, "sigmas": self.sigmas})

    def eps(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        attention: AttentionEdit | None = None,
        embedding: PromptEmbedding | None = None,
        rows: Rows | None = None,
    ) -> torch.Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if rows is None:
            rows = Rows.SOURCE if prompt is Prompt.SOURCE else Rows.TARGETS
        groups = self.prompts.asked(prompt, rows, self._sees_both)
        with self._edited(attention, rows) as options:
            parts = [
                self._eps(x[group.rows], level, prompt, group.pair, attention, embedding, options)
                for group in groups
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _eps(
        self,
        x: torch.Tensor,
        level: NoiseLevel,
        prompt: Prompt,
        pair: Pair,
        attention: AttentionEdit | None,
        embedding: PromptEmbedding | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """The noise in `x` under one prompt of a pair; the edit of attention is in the options."""
        x_k, sigma = self._shown(x, level)
        unconditional = prompt is Prompt.NEGATIVE
        conditions = (pair.negative if unconditional else pair.text) or []
        beside = self._beside(prompt, pair, embedding)
        evaluated = len(x) * (1 if beside is None else 2)
        self._count(evaluated)
        own = embedding if unconditional else None
        asked = x.requires_grad or (own is not None and own.tokens.requires_grad)
        if torch.is_grad_enabled() and asked:
            given = x_k, sigma, prompt, conditions, own, options, beside
            denoised = self.gradients.denoised(*given, collects=attention is not None)
            self.cost.backward_rows += evaluated // self.branches.pictures
        else:
            conditions = _replaced(conditions, own)
            denoised = _predict(self.guider, prompt, conditions, x_k, sigma, options, beside)
        return x0_to_eps(x, self._kept(denoised, sigma), level)

    def _beside(
        self, prompt: Prompt, pair: Pair, embedding: PromptEmbedding | None
    ) -> list[Condition] | None:
        """What has to be predicted in one call with a prompt, for patches that look at both."""
        if not pair.negative or not pair.text or not self._sees_both:
            return None
        if prompt is Prompt.NEGATIVE:
            return in_one_call(pair.negative, pair.text)
        return in_one_call(pair.text, _replaced(pair.negative, embedding))

    @property
    def _sees_both(self) -> bool:
        return sees_both(self.model_options, self.guider.model_patcher)

    def guided(self, request: Request) -> Guided:
        parts = [own for part in request.by_scale(self.branches) for own in self._apart(part)]
        check_memory(self.model_options, len(parts))
        return joined([self._guided(*own) for own in parts])

    def _apart(self, request: Request) -> list[tuple[Request, Pair]]:
        """A request as one for each group of prompts."""
        groups = self.prompts.groups(request.rows)
        if len(groups) == 1:
            return [(request, groups[0].pair)]
        x, negative = request.x, request.negative
        return [
            (
                request._replace(x=x[rows], negative=None if negative is None else negative[rows]),
                pair,
            )
            for rows, pair in groups
        ]

    def _guided(self, request: Request, pair: Pair) -> Guided:
        """Text guidance of one scale, under prompts that one call can take."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        x, level, negative = request.x, request.level, request.negative
        seen: dict[str, torch.Tensor | None] = {}

        def look(args: dict[str, Any]) -> list[torch.Tensor]:
            seen["negative"] = None if args["conds"][1] is None else args["conds_out"][1]
            return args["conds_out"]

        x_k, sigma = self._shown(x, level)
        with self._edited(request.attention, request.rows) as edited:
            # Before any patch: as a call of its own would make it.
            options = {**edited, PRE: [look, *edited.get(PRE, [])]}
            together = self._sees_both
            known = negative is not None and CALC not in options
            if known:
                x0 = eps_to_x0(x, negative, level)
                options[CALC] = self._with_known_negative(x0, together)
            elif request.needs_negative and not together and not sees_guidance(edited):
                # Patches are shown at scale 1 what the host shows them there: the text alone.
                options[_BOTH] = True
            single = math.isclose(request.text_scale, 1) and not options.get(_BOTH)
            self._count(len(x) * (1 if single or (known and not together) else 2))
            denoised = self._guide(request, pair, x_k, sigma, options)
        eps = x0_to_eps(x, self._kept(denoised, sigma), level)
        told = seen.get("negative")  # absent where a patch makes no prediction
        if negative is None and told is not None:
            negative = x0_to_eps(x, self._kept(told, sigma), level)
        return Guided(eps, negative)

    def _shown(self, x: torch.Tensor, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network sees of states at a level: as the host scales them, and its sigma."""
        x_k, sigma = state_to_k(x, level), _sigma(x, level)
        self._keyframes.go_to(sigma)
        return (x_k if self._outside is None else self._outside.shown(x_k, sigma)), sigma

    def _kept(self, denoised: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return denoised if self._outside is None else self._outside.kept(denoised, sigma)

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

    def _guide(
        self,
        request: Request,
        pair: Pair,
        x_k: torch.Tensor,
        sigma: torch.Tensor,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """The denoised latent by the guider."""
        negative = pair.negative and _replaced(pair.negative, request.embedding)
        conditions = self.guider.conds
        self.guider.set_cfg(request.text_scale)
        self.guider.conds = {Prompt.POSITIVE.value: pair.text, Prompt.NEGATIVE.value: negative}
        try:
            return self.guider(x_k, sigma, options, self.seed)
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
        options = uncompiled(self.model_options)
        return self._door.inside(
            attention, branches, columns, options, self.prompts.ids_of_negative
        )

    @cached_property
    def _door(self) -> Door:
        door = door_to(self.guider.inner_model.diffusion_model)
        if door is None:
            raise TypeError("an attention edit was let through to a network without a door")
        return door

    def _with_known_negative(self, denoised: torch.Tensor, together: bool) -> Any:
        def calc(args: dict[str, Any]) -> list[torch.Tensor]:
            options = {key: value for key, value in args["model_options"].items() if key != CALC}
            text, null = args["conds"]
            beside = in_one_call(text, null) if together else None
            given = args["input"], args["sigma"], options, beside
            positive = _predict(self.guider, Prompt.POSITIVE, text, *given)
            # Where the host leaves the negative prompt out, at scale 1, patches are told of none.
            return [positive, torch.zeros_like(positive) if null is None else denoised]

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
    beside: list[Condition] | None = None,
) -> torch.Tensor:
    """The denoised latent under one prompt, predicted in one call with another beside it, if any.

    The one beside it is the negative prompt's text, or the text's negative prompt.
    """
    # Patches such as IPAdapter tell the prompts apart by their place: text 0, unconditional 1.
    place = int(prompt is Prompt.NEGATIVE)
    both = [beside, conditions] if place else [conditions, beside]
    return comfy.samplers.calc_cond_batch(guider.inner_model, both, x_k, sigma, options)[place]


def _replaced(negative: list[Condition], embedding: PromptEmbedding | None) -> list[Condition]:
    """The unconditional prompt, or what takes its place."""
    return negative if embedding is None else with_embedding(negative, Prompt.NEGATIVE, embedding)


def _sigma(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """The level as the host wants it: (B,) float32."""
    return torch.full((x.shape[0],), level.k_sigma, dtype=torch.float32, device=x.device)
