"""Stages of the demo model in order, and the file that they end in."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from demo.training import evaluate, export, loop, networks, stages
from demo.training.vocabulary import Vocabulary

vae_batch = 12
text_batch = 64
unet_batch = 32
gpu_batch_factor = 8


def run(options: argparse.Namespace, device: torch.device) -> None:
    """Train what `options.stage` names, or everything that is not finished, export and measure."""
    team = loop.Team()
    if options.stage in (None, "vae"):
        train_vae(options, team, device)
    if options.stage in (None, "text"):
        train_text(options, team, device)
    if options.stage in (None, "unet"):
        train_unet(options, team, device)
    if team.leads:
        export.export(options.checkpoints, options.output)
    if team.leads and options.stage is None:
        check(options)


def check(options: argparse.Namespace) -> None:
    """Measure the exported file, write the figures into its card, fail if a target is missed."""
    figures, _, _ = evaluate.evaluate(options.output, evaluate.Settings())
    export.add_figures(options.output, figures)
    tqdm.write(evaluate.table(figures))
    missed = evaluate.failures(figures)
    if missed:
        raise SystemExit("missed targets:\n  " + "\n  ".join(missed))


def train_vae(options: argparse.Namespace, team: loop.Team, device: torch.device) -> None:
    budget = loop.Budget(
        steps=6_000,
        minutes=options.vae_minutes,
        learning_rate=1.5e-3,
        ema_decay=0.99,
        decay_from=0.3,
        save_every=200,
    )
    stage = stages.VaeStage(_share(vae_batch, team, device), device, _generator(options))
    vae = loop.train_stage(stage, budget, team, options.checkpoints, options.seed)
    if team.leads:
        stages.fold_latent_scale(
            vae, networks.latent_scale_factor(), np.random.default_rng(options.seed)
        )
        loop.save_state(vae.state_dict(), options.checkpoints / "vae_folded.pt")
    team.agree(0.0)


def train_text(options: argparse.Namespace, team: loop.Team, device: torch.device) -> None:
    budget = loop.Budget(
        steps=250, minutes=10.0, learning_rate=1e-3, ema_decay=0.98, save_every=200
    )
    batch = _share(text_batch, team, device)
    stage = stages.TextStage(Vocabulary(), batch, device, _generator(options))
    loop.train_stage(stage, budget, team, options.checkpoints, options.seed + 1)
    team.agree(0.0)


def train_unet(options: argparse.Namespace, team: loop.Team, device: torch.device) -> None:
    budget = loop.Budget(
        steps=30_000,
        minutes=options.unet_minutes,
        learning_rate=1e-3,
        warmup_steps=200,
        decay_from=0.6,
        ema_decay=0.9985,
        save_every=250,
    )
    vocabulary = Vocabulary()
    stage = stages.DiffusionStage(
        load_vae(options.checkpoints, device),
        _pretrained_text(options.checkpoints, vocabulary),
        vocabulary,
        _share(unet_batch, team, device),
        device,
        _generator(options),
    )
    loop.train_stage(stage, budget, team, options.checkpoints, options.seed + 2)


def load_vae(folder: Path, device: torch.device) -> nn.Module:
    """The finished VAE, latents scaled, no gradients."""
    vae = networks.make_vae(torch.Generator())
    vae.load_state_dict(torch.load(folder / "vae_folded.pt", weights_only=True))
    vae = vae.to(device, memory_format=torch.channels_last)
    return vae.eval().requires_grad_(False)


def _pretrained_text(folder: Path, vocabulary: Vocabulary) -> nn.Module:
    stage = stages.TextStage(vocabulary, 1, torch.device("cpu"), torch.Generator())
    loop.load_averaged(folder / "text.pt", stage.network)
    return stage.network["text"]


def _generator(options: argparse.Namespace) -> torch.Generator:
    """Of the initial weights: the same in every process."""
    return torch.Generator().manual_seed(options.seed)


def _share(batch: int, team: loop.Team, device: torch.device) -> int:
    """Pictures per process and step; a GPU takes a larger batch."""
    return batch * gpu_batch_factor if device.type == "cuda" else max(1, batch // team.size)
