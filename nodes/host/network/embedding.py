"""A prompt's embedding inside the host's processed conditions: to read, and to put another in."""

import copy
from typing import Any

import torch

from ....nmg_sampler import InvalidInput, Prompt, PromptEmbedding
from .conditions import Condition

# How the host names what a network takes: tokens through cross-attention, SDXL's vector beside it.
_TOKENS, _VECTOR = "c_crossattn", "y"


def embedding_of(conditions: list[Condition], prompt: Prompt) -> PromptEmbedding:
    """The embedding of a prompt.

    Raises:
        InvalidInput: the prompt has several parts, or none that is an embedding.
    """
    values = _single(conditions, prompt)["model_conds"]
    vector = values.get(_VECTOR)
    return PromptEmbedding(values[_TOKENS].cond, None if vector is None else vector.cond)


def with_embedding(
    conditions: list[Condition], prompt: Prompt, embedding: PromptEmbedding
) -> list[Condition]:
    """The conditions of a prompt under another embedding; where and when it applies stays.

    Raises:
        InvalidInput: the prompt has several parts, or none that is an embedding.
    """
    condition = _single(conditions, prompt)
    values = dict(condition["model_conds"])
    values[_TOKENS] = _with(values[_TOKENS], embedding.tokens)
    if embedding.vector is not None:
        values[_VECTOR] = _with(values[_VECTOR], embedding.vector)
    return [{**condition, "model_conds": values}]


def own(conditions: list[Condition]) -> list[Condition]:
    """Conditions whose tensors autograd may save: the host's were made in inference mode."""
    return [
        {**condition, "model_conds": {k: _cloned(v) for k, v in condition["model_conds"].items()}}
        for condition in conditions
    ]


def _single(conditions: list[Condition], prompt: Prompt) -> Condition:
    if len(conditions) != 1 or _TOKENS not in conditions[0]["model_conds"]:
        raise InvalidInput.of(
            prompt.value,
            "is no single prompt, and this method works on its embedding",
            f"{len(conditions)} parts",
            "one text for the whole picture",
            "Take combined prompts and areas apart.",
        )
    return conditions[0]


def _with(value: Any, content: torch.Tensor) -> Any:
    result = copy.copy(value)
    result.cond = content
    return result


def _cloned(value: Any) -> Any:
    content = getattr(value, "cond", None)
    if isinstance(content, torch.Tensor):
        return _with(value, content.clone())
    if isinstance(content, list):
        return _with(value, [t.clone() if isinstance(t, torch.Tensor) else t for t in content])
    return copy.copy(value)
