"""The memory of a run's gradient passes: the plan, and what happens where it was too bold."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management
import torch

from ....nmg_sampler import NotDifferentiable
from .plans import PLANS, Plan

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_WHAT = {
    Plan.KEEP: "every activation is kept",
    Plan.BLOCKS: "blocks of the model run a second time instead of keeping their activations",
}
_ADVICE = (
    "NMG: the gradient of the model does not fit into memory, even with its smallest plan. Take"
    " gradient 'direct', which needs no more than plain sampling, or a smaller picture."
)


class GradientMemory:
    """The plan of one run, and the next smaller one where memory runs out.

    Attributes:
        plan: of the passes to come; None before the first.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None

    def begin(self, plan: Plan, why: str) -> None:
        """Sets the plan, and tells the log why."""
        self.plan = plan
        self._tell(why)

    def differentiable(
        self, predict: Callable[..., torch.Tensor], *inputs: torch.Tensor | None
    ) -> torch.Tensor:
        """predict(*inputs), differentiable once in the inputs that require a gradient.

        Whichever of the two passes runs out of memory, both are made again by the next plan: what
        called this does not notice.

        Args:
            predict: makes its pass by the plan that is `plan` at the time, and may run again.
            inputs: tensors, or None.

        Raises:
            NotDifferentiable: the result is cut off from an input, or is another the second time.
        """
        return _Differentiable.apply(self, predict, *inputs)

    def attempt(self, work: Callable[[], _Result]) -> _Result:
        """work(), and again by each smaller plan as long as it runs out of memory.

        Raises:
            the host's error for too little memory, with advice, when no plan is left.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                if self.plan is None or self.plan is PLANS[-1]:
                    kind = comfy.model_management.OOM_EXCEPTION
                    raise kind(f"{str(error).strip()}\n{_ADVICE}") from error
            # Not before the error is gone: its traceback holds what the pass had made.
            comfy.model_management.soft_empty_cache()
            self.plan = PLANS[PLANS.index(self.plan) + 1]
            self._tell("memory ran out, the step is made again")

    def _tell(self, why: str) -> None:
        _LOG.info("NMG gradient pass, plan '%s' (%s): %s.", self.plan.value, why, _WHAT[self.plan])


def _is_out_of_memory(error: Exception) -> bool:
    management = comfy.model_management
    # The host also clears what an accelerator tells late; older ones do not have this.
    hosts = getattr(management, "is_oom", lambda _: False)
    told = isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    return hosts(error) or isinstance(error, management.OOM_EXCEPTION) or told


_Graph = tuple[torch.Tensor, list[torch.Tensor]]  # a result, the leaves that it is a function of


class _Differentiable(torch.autograd.Function):
    """apply(memory, predict, *inputs); it has a graph of its own inside, which it can make anew."""

    @staticmethod
    def forward(ctx, memory, predict, *inputs):  # noqa: ANN001 (autograd's interface)
        asked = ctx.needs_input_grad[2:]
        ctx.make = lambda: _graph(predict, inputs, asked)
        ctx.memory, ctx.asked = memory, asked
        ctx.graph = memory.attempt(ctx.make)
        return ctx.graph[0].detach()

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        made, make, ctx.graph, ctx.make = [ctx.graph], ctx.make, None, None

        def pull_back() -> tuple[torch.Tensor, ...]:
            graph = made.pop() if made else make()
            return _gradients(graph, grad)

        gradients = iter(ctx.memory.attempt(pull_back))
        return None, None, *(next(gradients) if asked else None for asked in ctx.asked)


def _graph(
    predict: Callable[..., torch.Tensor], inputs: tuple[Any, ...], asked: tuple[bool, ...]
) -> _Graph:
    with torch.inference_mode(False), torch.enable_grad():
        given = [
            value.detach().requires_grad_(leaf) if isinstance(value, torch.Tensor) else value
            for value, leaf in zip(inputs, asked, strict=True)
        ]
        leaves = [value for value, leaf in zip(given, asked, strict=True) if leaf]
        return predict(*given), leaves


def _gradients(graph: _Graph, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    result, leaves = graph
    gradients = torch.autograd.grad(result, leaves, grad, allow_unused=True)
    if any(gradient is None for gradient in gradients):
        raise NotDifferentiable.through_patch("a prediction that is cut off from its input")
    return gradients
