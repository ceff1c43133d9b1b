"""Training loop of the demo model: several processes, time or step budget, EMA, checkpoints."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Budget:
    """When a stage ends: after `steps` or after `minutes` of training, whichever comes first."""

    steps: int
    minutes: float
    learning_rate: float
    warmup_steps: int = 100
    decay_from: float = 0.5
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    log_every: int = 50
    save_every: int = 500

    def progress(self, step: int, seconds: float) -> float:
        """Done share of the stage, 0..1."""
        return min(1.0, max(step / self.steps, seconds / (60.0 * self.minutes)))

    def rate(self, step: int, progress: float) -> float:
        """Learning rate: linear warm-up, constant, cosine to zero from `decay_from` on."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        late = max(0.0, (progress - self.decay_from) / (1.0 - self.decay_from))
        return self.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * late))


class Team:
    """The processes that train together; alone without a process group."""

    def __init__(self) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.size = dist.get_world_size() if dist.is_initialized() else 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, piece in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(piece.view_as(gradient))

    def agree(self, value: float) -> float:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        holder = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(holder, 0)
        return float(holder)


class Stage(Protocol):
    """What the loop trains."""

    name: str
    network: nn.Module

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, dict]:
        """Scalar loss of a fresh batch and named figures for the log."""


def train_stage(stage: Stage, budget: Budget, team: Team, folder: Path, seed: int) -> nn.Module:
    """The averaged network of a finished stage, resumed from its checkpoint where there is one.

    Args:
        folder: `<name>.pt` (resumable state) and `<name>.log` (one JSON line per report) go here.
        seed: of this stage; each process and each resumed run draws from a stream of its own.
    """
    path = folder / f"{stage.name}.pt"
    optimizer = torch.optim.AdamW(
        stage.network.parameters(),
        lr=budget.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=1e-2,
        fused=True,
    )
    averaged = copy.deepcopy(stage.network).requires_grad_(False)
    step, seconds = _resume(path, stage.network, averaged, optimizer)
    stream = np.random.SeedSequence([seed, team.rank, step])
    rng = np.random.default_rng(stream)
    generator = torch.Generator().manual_seed(int(stream.generate_state(1)[0]))
    report = _Report(stage.name, budget, folder, enabled=team.leads)
    last = time.monotonic()
    while (progress := team.agree(budget.progress(step, seconds))) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(step, progress)
        loss, figures = stage.loss(rng, generator)
        _check_finite(stage.name, step, loss)
        loss.backward()
        team.average_gradients(stage.network.parameters())
        nn.utils.clip_grad_norm_(stage.network.parameters(), budget.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _average(averaged, stage.network, min(budget.ema_decay, (1 + step) / (10 + step)))
        step += 1
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        report.add(step, seconds, {"loss": loss.item(), **figures})
        if team.leads and step % budget.save_every == 0:
            _save(path, stage.network, averaged, optimizer, step, seconds)
    if team.leads:
        _save(path, stage.network, averaged, optimizer, step, seconds)
    report.close()
    return averaged


def load_averaged(path: Path, network: nn.Module) -> int:
    """Load the averaged weights of a checkpoint into `network`; returns its step."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["averaged"])
    return int(state["step"])


def save_state(state: dict, path: Path) -> None:
    """Write beside the target, then rename: a killed run leaves the old file whole."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


class _Report:
    """Progress bar with ETA, and means of the figures in a log file."""

    def __init__(self, name: str, budget: Budget, folder: Path, enabled: bool) -> None:
        self.budget = budget
        self.enabled = enabled
        self.log = folder / f"{name}.log"
        self.sums: dict[str, list[float]] = {}
        self.bar = tqdm(
            total=100.0,
            desc=name,
            disable=not enabled,
            mininterval=5.0,
            bar_format="{desc} {percentage:5.1f}% [{elapsed}<{remaining}] {postfix}",
        )

    def add(self, step: int, seconds: float, figures: dict[str, float]) -> None:
        if not self.enabled:
            return
        for key, value in figures.items():
            self.sums.setdefault(key, []).append(value)
        self.bar.update(100.0 * self.budget.progress(step, seconds) - self.bar.n)
        if step % self.budget.log_every == 0:
            means = {key: float(f"{np.mean(values):.4g}") for key, values in self.sums.items()}
            self.sums.clear()
            self.bar.set_postfix(step=step, **means)
            with self.log.open("a") as file:
                file.write(json.dumps({"step": step, "seconds": round(seconds), **means}) + "\n")

    def close(self) -> None:
        self.bar.close()


def _check_finite(name: str, step: int, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise RuntimeError(
            f"train_stage: loss of '{name}' is not finite. Got {loss.item()} at step {step}; "
            "expected a number. Run again from the last checkpoint with a lower learning rate."
        )


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1.0 - decay)


def _resume(
    path: Path, network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _save(
    path: Path,
    network: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "network": network.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    save_state(state, path)
