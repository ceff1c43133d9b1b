"""Predictions with their gradients: the only graph of the library, left when it has been used."""

from collections.abc import Callable

import torch

from ..errors import NotDifferentiable
from ..trajectory.levels import NoiseLevel
from .branches import Rows
from .predictor import AttentionLoss, Predictor, Prompt, PromptEmbedding

# What PyTorch says of a graph that cannot be walked back; anything else is no matter of patches.
_BROKEN_GRAPH = ("inplace operation", "nference tensor", "autograd formula", "second time")


def differentiable_eps(
    predictor: Predictor,
    x: torch.Tensor,
    level: NoiseLevel,
    prompt: Prompt,
    rows: Rows | None = None,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """The noise in `x` and the function that pulls a covector on it back to the state.

    Args:
        rows: which branches those of `x` are, see `Predictor.eps`.

    Returns:
        eps: (B, C, ...), detached.
        pullback: cotangent -> J^T cotangent with J = d eps / d x; same shape; usable once.

    Raises:
        NotDifferentiable: the prediction is cut off from `x`.
    """
    eps, leaf = _with_graph(lambda leaf: predictor.eps(leaf, level, prompt, rows=rows), x)
    if not eps.requires_grad:
        raise _cut_off()
    return eps.detach(), lambda cotangent: _pull_back(eps, leaf, cotangent)


def embedding_eps(
    predictor: Predictor, x: torch.Tensor, level: NoiseLevel, prompt: Prompt, tokens: torch.Tensor
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """The noise in `x` under other tokens, and the pullback of a covector on it to them.

    Args:
        tokens: (rows or 1, columns, width), the embedding in the prompt's place.

    Returns:
        eps: (B, C, ...), detached.
        pullback: cotangent -> J^T cotangent with J = d eps / d tokens; the shape and dtype of
            `tokens`; usable once.

    Raises:
        NotDifferentiable: the prediction is cut off from the tokens.
    """

    def predict(leaf: torch.Tensor) -> torch.Tensor:
        # A tensor of the host's inference mode cannot be kept for a backward pass.
        state = x.detach().clone()
        return predictor.eps(state, level, prompt, embedding=PromptEmbedding(leaf))

    eps, leaf = _with_graph(predict, tokens)
    if not eps.requires_grad:
        raise _cut_off()
    return eps.detach(), lambda cotangent: _pull_back(eps, leaf, cotangent)


def loss_gradient(
    predictor: Predictor,
    x: torch.Tensor,
    level: NoiseLevel,
    prompt: Prompt,
    loss: AttentionLoss,
    embedding: PromptEmbedding | None = None,
) -> torch.Tensor:
    """What `Predictor.loss_gradient` asks for, by a predictor whose `eps` is differentiable.

    Raises:
        NotDifferentiable: the loss is cut off from `x`.
    """
    _, leaf = _with_graph(lambda leaf: predictor.eps(leaf, level, prompt, loss, embedding), x)
    total = loss.total()
    if not total.requires_grad:
        raise _cut_off()
    return _pull_back(total, leaf, torch.ones_like(total))


def _with_graph(
    predict: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(eps, the leaf at `at` it is a function of): the only place of the library with a graph.

    Leaves the host's inference mode for it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        return predict(leaf), leaf


def _pull_back(result: torch.Tensor, leaf: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
    try:
        with torch.inference_mode(False):
            (gradient,) = torch.autograd.grad(
                result, leaf, cotangent.detach().clone(), allow_unused=True
            )
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        if not any(sign in text for sign in _BROKEN_GRAPH):
            raise
        raise NotDifferentiable.through_patch(f"'{text}'") from error
    if gradient is None:  # only the weights are in the graph
        raise _cut_off()
    return gradient


def _cut_off() -> NotDifferentiable:
    return NotDifferentiable(
        "gradient 'full' needs a prediction that can be differentiated. Got one that is cut off"
        " from its input; expected a graph. A patch on the model caches or detaches it: remove"
        " the patch, or use gradient 'direct'."
    )
