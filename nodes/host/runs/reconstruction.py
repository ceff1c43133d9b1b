"""A trajectory back to its own picture, inside the host's sampling path."""

from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Branches, Guidance, PlainGuidance, Prompt, Trajectory
from ....nmg_sampler.contract import OnStep, check_text_scale
from ....nmg_sampler.looks import follow
from ....nmg_sampler.trajectory import Kind
from ..models.model import check_trajectory, picture_of
from ..network.conditions import Conditioning
from .checks import check_conditioning, check_prompt_count
from .predictor import HostPredictor
from .procedure import Done, Job, Turn, run_procedure, total_cost

Way = tuple[Guidance, float]  # a method and a text scale


class Reconstructed(NamedTuple):
    """One way back."""

    samples: torch.Tensor  # of a LATENT, where it ends
    distances: torch.Tensor  # (T + 1, B) to the recorded states, as `follow` has them


def ways_back(trajectory: Trajectory, guidance: Guidance, text_scale: float) -> list[Way]:
    """The way asked for, and those that tell what is at fault: without the method, without text.

    States that were drawn one by one have one way alone.
    """
    if trajectory.kind is Kind.DRAWN:
        return [(guidance, text_scale)]
    ways = [(guidance, text_scale), (PlainGuidance(), text_scale), (PlainGuidance(), 1.0)]
    return [way for place, way in enumerate(ways) if way not in ways[:place]]


def check_reconstruction(
    model: ModelPatcher, trajectory: Trajectory, negative: Conditioning, ways: list[Way]
) -> None:
    """Refuses what `run_reconstruction` cannot do, before anything is loaded.

    Raises:
        InvalidInput: the source or the negative prompt, a method or a scale cannot be used.
        TrajectoryMismatch: the trajectory was made with another model.
    """
    check_conditioning(negative, "negative")
    check_conditioning(trajectory.source, "trajectory's source prompt")
    check_trajectory(model, trajectory)
    check_prompt_count(negative, "negative", trajectory.shape)
    check_prompt_count(trajectory.source, "trajectory's source prompt", trajectory.shape)
    for guidance, text_scale in ways:
        check_text_scale(text_scale)
        guidance.check(trajectory, Branches(trajectory.shape[0]))


def run_reconstruction(
    model: ModelPatcher, trajectory: Trajectory, negative: Conditioning, ways: list[Way]
) -> tuple[list[Reconstructed], dict[str, Any]]:
    """Samples back under the trajectory's own prompt, every way in turn, under one bar.

    Args:
        all: as `check_reconstruction` lets them pass.

    Returns:
        what each way comes to; the cost.

    Raises:
        NotFinite: the model answered with NaN or infinity.
    """
    made: list[Reconstructed] = []
    costs: list[dict[str, Any]] = []
    for number, way in enumerate(ways):
        # A run of its own for each: what patches keep during a run must not reach the next one.
        reached, cost = _run_way(model, trajectory, negative, way, Turn(number, len(ways)))
        made.append(reached)
        costs.append(cost)
    return made, total_cost(costs)


def _run_way(
    model: ModelPatcher, trajectory: Trajectory, negative: Conditioning, way: Way, turn: Turn
) -> tuple[Reconstructed, dict[str, Any]]:
    """One way back, and its cost."""

    def procedure(predictor: HostPredictor, x: torch.Tensor, on_step: OnStep) -> Done:
        followed = follow(trajectory, predictor, *way, device=x.device, on_step=on_step)
        return Done(followed.latent, followed.distances)

    source = trajectory.source
    # A method may ask for the source prompt by that name; here it is the target as well.
    conditions = {
        Prompt.POSITIVE.value: source,
        Prompt.SOURCE.value: source,
        Prompt.NEGATIVE.value: negative,
    }
    picture = picture_of(model, trajectory)
    job = Job(conditions, picture, trajectory.schedule, procedure, trajectory.noise_mask)
    samples, distances, cost = run_procedure(model, job, turn)
    return Reconstructed(samples, distances), cost
