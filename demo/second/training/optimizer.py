"""Optimizers of the demo models: Muon for matrices and kernels, AdamW for everything else.

Muon (Jordan et al., 2024) steps along the nearest orthogonal matrix to the momentum. Its step is
scaled to the size of an AdamW step, so that one learning rate serves both (Liu et al., 2025).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

momentum = 0.95
rounds = 5
matched_rms = 0.2
# Rows of tables are looked up, not multiplied: they are no matrices to make orthogonal.
_tables = (nn.Embedding,)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for parameters of two or more axes.

    A kernel (out, in, h, w) counts as the matrix (out, in * h * w).
    """

    def __init__(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the gradients that the parameters hold."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, rate: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        running = state["momentum"]
        running.lerp_(parameter.grad, 1.0 - momentum)
        direction = torch.lerp(parameter.grad, running, momentum).flatten(1)
        scale = matched_rms * math.sqrt(max(direction.shape))
        parameter.mul_(1.0 - rate * weight_decay)
        parameter.add_(orthogonalised(direction).view_as(parameter), alpha=-rate * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly U V^T of the singular value decomposition U S V^T of `matrix` (m, n).

    Five rounds of a quintic iteration bring every singular value to about 0.7..1.2.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(rounds):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.to(matrix.dtype)
    return x.T if tall else x


class Optimizers:
    """Muon and AdamW as one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    def set_rate(self, rate: float) -> None:
        """Learning rate of the next step, for all parameters."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def make(network: nn.Module, rate: float, weight_decay: float) -> Optimizers:
    """The optimizers of all parameters of `network` that take gradients."""
    tables = {id(m.weight) for m in network.modules() if isinstance(m, _tables)}
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in tables]
    others = [p for p in trained if p.ndim < 2 or id(p) in tables]
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, rate, weight_decay))
    if others:
        parts.append(
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        )
    return Optimizers(parts)
