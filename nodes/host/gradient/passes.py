"""Predictions of the host's network that can be differentiated, within the memory there is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ....nmg_sampler import NotDifferentiable, Prompt, PromptEmbedding
from ..network.compiled import uncompiled
from ..network.embedding import own, with_embedding
from .attention import attention_with_backward
from .blocks import Block, computed_again, find_blocks
from .kernels import differentiable_kernels
from .layers import DifferentiableLayers
from .memory import GradientMemory
from .plans import Plan, choose_plan
from .saved import keep_saved

_OVERRIDE = "optimized_attention_override"


class GradientPasses:
    """Those of one run.

    Args:
        guider: a CFGGuider in the middle of `sample`.
        predict: (prompt, conditions, x_k, sigma, options, beside) -> the denoised latent, by the
            host.

    Attributes:
        memory: how the passes get by with the memory there is.
    """

    def __init__(
        self, guider: comfy.samplers.CFGGuider, predict: Callable[..., torch.Tensor]
    ) -> None:
        self.guider = guider
        self.predict = predict
        self.memory = GradientMemory()
        # By the list they are of, which lives as long as the run.
        self._own_conditions: dict[int, list[dict[str, Any]]] = {}

    def denoised(
        self,
        x_k: torch.Tensor,
        sigma: torch.Tensor,
        prompt: Prompt,
        conditions: list[dict[str, Any]],
        embedding: PromptEmbedding | None,
        options: dict[str, Any],
        beside: list[dict[str, Any]] | None,
        collects: bool,
    ) -> torch.Tensor:
        """The denoised latent, with its graph in the state and in the embedding.

        Args:
            x_k: the state as the host scales it.
            sigma: its level, one per row.
            prompt, conditions: what to predict under.
            embedding: in the prompt's place, if any.
            options: of the model.
            beside: the conditions of another prompt that goes through the same pass, if any.
            collects: whether an attention edit takes its own part of the graph out of the pass.
                Then the caller has to see to it that memory suffices: `memory.attempt`.

        Raises:
            NotDifferentiable: a patch or a condition is in the way.
        """
        conditions = self._owned(conditions)
        beside = None if beside is None else own(beside)
        if self.memory.plan is None:
            model = self.guider.inner_model
            parts = [*conditions, *(beside or [])]
            plan = choose_plan(options, model, x_k.shape, parts, self._layers.roots)
            self.memory.begin(*plan)

        def predict(x_k: torch.Tensor, tokens: torch.Tensor | None) -> torch.Tensor:
            given = conditions
            if tokens is not None:
                given = with_embedding(given, prompt, embedding._replace(tokens=tokens))
            return self._pass(x_k, sigma, prompt, given, options, beside)

        tokens = None if embedding is None else embedding.tokens
        if collects:
            return predict(x_k, tokens)
        return self.memory.differentiable(predict, x_k, tokens)

    def _owned(self, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if id(given) not in self._own_conditions:
            self._own_conditions[id(given)] = own(given)
        conditions = self._own_conditions[id(given)]
        if len({condition.get("hooks") for condition in conditions}) > 1:
            raise NotDifferentiable(
                "gradient 'full' is not possible with different LoRA hooks in one prompt: the host"
                " changes the weights between them. Got more than one; expected the same hooks on"
                " every part of the unconditional prompt. Use gradient 'direct', or a LoRA loader."
            )
        return conditions

    def _pass(
        self,
        x_k: torch.Tensor,
        sigma: torch.Tensor,
        prompt: Prompt,
        conditions: list[dict[str, Any]],
        options: dict[str, Any],
        beside: list[dict[str, Any]] | None,
    ) -> torch.Tensor:
        """One forward pass that leaves a graph."""
        transformer_options = options.get("transformer_options", {})
        # Transformers add in place and call kernels, unlike UNets.
        transformer = not isinstance(self.guider.inner_model.diffusion_model, UNetModel)
        patched = bool(transformer_options.get("patches"))
        changed = (
            transformer
            or patched
            or any("control" in each for each in [*conditions, *(beside or [])])
        )
        try:
            with (
                self._layers.prepared(),
                differentiable_kernels() if transformer else nullcontext(),
                keep_saved(changed),
                self._saving(transformer_options, changed),
            ):
                denoised = self.predict(
                    prompt, conditions, x_k, sigma, _with_backward(options), beside
                )
        except RuntimeError as error:
            if "nference tensor" not in str(error) and "inplace" not in str(error):
                raise
            text = str(error).splitlines()[0]
            raise NotDifferentiable.through_patch(f"'{text}'") from error
        if not denoised.requires_grad:
            raise NotDifferentiable.through_patch("a prediction that is cut off from its input")
        return denoised

    def _saving(
        self, transformer_options: dict[str, Any], changed: bool
    ) -> AbstractContextManager[None]:
        """What the plan asks for."""
        if self.memory.plan is Plan.KEEP:
            return nullcontext()
        patched = any(transformer_options.get(name) for name in ("patches", "patches_replace"))
        return computed_again(self._blocks, patched, changed)

    @cached_property
    def _layers(self) -> DifferentiableLayers:
        others = [patcher.model for patcher in self.guider.loaded_models]
        return DifferentiableLayers(self.guider.inner_model.diffusion_model, *others)

    @cached_property
    def _blocks(self) -> list[Block]:
        return find_blocks(self._layers)


def _with_backward(options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which a pass can be differentiated."""
    # The multi-GPU path runs without gradients: this pass takes the single-device one.
    options = {k: v for k, v in uncompiled(options).items() if k != "multigpu_clones"}
    transformer_options = options.get("transformer_options", {})
    attention = attention_with_backward(transformer_options.get(_OVERRIDE))
    options["transformer_options"] = {**transformer_options, _OVERRIDE: attention}
    return options
