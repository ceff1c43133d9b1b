"""Training loop of the demo models: a budget of steps, averaged weights, resumable checkpoints."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from demo.second.training import optimizer as optimizers


@dataclass(frozen=True)
class Budget:
    """How long and how fast a stage trains.

    Attributes:
        steps: of the whole stage, over all its runs; the learning rate is zero at the end.
        learning_rate: of every parameter; the two optimizers are scaled to share it.
        decay_from: done share, 0..1, from which the learning rate falls to zero (cosine).
        ema_decay: of the averaged weights, per step.
        weight_decay: of matrices and kernels, decoupled.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    decay_from: float = 0.6
    ema_decay: float = 0.999
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    log_every: int = 50
    save_every: int = 200

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, cosine to zero from `decay_from` on."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        late = max(0.0, (step / self.steps - self.decay_from) / (1.0 - self.decay_from))
        return self.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, late)))


class Stage(Protocol):
    """What the loop trains."""

    name: str
    network: nn.Module

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict]:
        """Scalar loss of a batch and named figures for the log; `progress` is 0..1."""


def train_stage(
    stage: Stage, budget: Budget, folder: Path, seed: int, minutes: float = math.inf
) -> nn.Module:
    """The averaged network of a stage, resumed from its checkpoint where there is one.

    Args:
        folder: `<name>.pt` (resumable state) and `<name>.log` (one JSON line per report) go here.
        seed: of this stage; each resumed run draws from a stream of its own.
        minutes: of wall time after which this run saves and ends, finished or not.
    """
    path = folder / f"{stage.name}.pt"
    optimizer = optimizers.make(stage.network, budget.learning_rate, budget.weight_decay)
    averaged = copy.deepcopy(stage.network).requires_grad_(False)
    step, seconds = _resume(path, stage.network, averaged, optimizer)
    stream = np.random.SeedSequence([seed, step])
    rng = np.random.default_rng(stream)
    generator = torch.Generator().manual_seed(int(stream.generate_state(1)[0]))
    report = _Report(stage.name, step, budget, folder)
    started = last = time.monotonic()
    while step < budget.steps and last - started < 60.0 * minutes:
        optimizer.set_rate(budget.rate(step))
        loss, figures = stage.loss(rng, generator, step / budget.steps)
        _check_finite(stage.name, step, loss)
        loss.backward()
        nn.utils.clip_grad_norm_(stage.network.parameters(), budget.clip_norm)
        optimizer.step()
        stage.network.zero_grad(set_to_none=True)
        _average(averaged, stage.network, min(budget.ema_decay, (1 + step) / (10 + step)))
        step += 1
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        report.add(step, seconds, {"loss": loss.item(), **figures})
        if step % budget.save_every == 0:
            _save(path, stage.network, averaged, optimizer, step, seconds)
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

    def __init__(self, name: str, step: int, budget: Budget, folder: Path) -> None:
        self.budget = budget
        self.log = folder / f"{name}.log"
        self.sums: dict[str, list[float]] = {}
        self.bar = tqdm(total=budget.steps, initial=step, desc=name, mininterval=30.0)

    def add(self, step: int, seconds: float, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            self.sums.setdefault(key, []).append(value)
        self.bar.update(1)
        if step % self.budget.log_every == 0:
            means = {key: float(f"{np.mean(values):.4g}") for key, values in self.sums.items()}
            self.sums.clear()
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
    path: Path, network: nn.Module, averaged: nn.Module, optimizer: optimizers.Optimizers
) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    averaged.load_state_dict(state["averaged"])
    if state["optimizer"] is not None:  # weights alone, as they are shipped, warm up again
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _save(
    path: Path,
    network: nn.Module,
    averaged: nn.Module,
    optimizer: optimizers.Optimizers,
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
