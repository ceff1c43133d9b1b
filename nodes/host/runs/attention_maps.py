"""What the model thinks where, inside the host's sampling path."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....nmg_sampler import Branches, InvalidInput, Prompt, Trajectory
from ....nmg_sampler.contract import OnStep
from ....nmg_sampler.looks import Columns, word_entries, word_maps
from ..models.model import check_trajectory
from ..network.door import door_to
from ..network.several import columns_of
from .checks import check_conditioning, check_prompt_count
from .looking import look_at
from .predictor import HostPredictor


def run_attention_maps(
    model: ModelPatcher,
    trajectory: Trajectory,
    words: Sequence[Columns],
    columns: int,
    levels: int,
    factor: int,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Where the model sees words of a trajectory's prompt.

    Args:
        words: per word the embedding columns of its tokens.
        columns: length of the prompt that they are of.
        levels: how many of the recorded states are looked at.
        factor: latent cells per cell of the maps, in each direction; the model's nearest is taken.
            0 chooses by the size of the latent.

    Returns:
        (words, pictures, height, width) float32 probabilities on the CPU; the cost.

    Raises:
        InvalidInput: the model has no such attention, or the prompt is not the trajectory's.
        TrajectoryMismatch: the trajectory was made with another model.
        NotFinite: the model answered with NaN or infinity.
    """
    source = trajectory.source
    _check_attention(model)
    check_conditioning(source, "trajectory's source prompt")
    _check_prompt(source, columns)
    check_trajectory(model, trajectory)
    check_prompt_count(source, "trajectory's source prompt", trajectory.shape)
    entries = word_entries(trajectory.schedule, levels)

    def look(predictor: HostPredictor, device: torch.device, on_step: OnStep) -> torch.Tensor:
        return word_maps(
            trajectory, predictor, words, entries, factor=factor, device=device, on_step=on_step
        )

    conditions = {Prompt.SOURCE.value: source}
    branches = Branches(trajectory.shape[0], 0, True)
    return look_at(model, trajectory, conditions, look, branches, (columns_of((source,)),))


def _check_attention(model: ModelPatcher) -> None:
    network = model.get_model_object("diffusion_model")
    if door_to(network) is None:
        raise InvalidInput.of(
            "model",
            "has no attention to words that can be looked at",
            type(network).__name__,
            "a UNet with cross-attention over one picture: SD 1.x, SD 2.x or SDXL",
            "Load a checkpoint of one of these families.",
        )


def _check_prompt(source: Any, columns: int) -> None:
    if len(source) != 1 or "area" in source[0][1]:
        raise InvalidInput.of(
            "trajectory",
            "has a prompt whose words are not all over the picture",
            f"{len(source)} parts" if len(source) != 1 else "an area",
            "one prompt for the whole picture",
            "Invert with a plain CLIP Text Encode.",
        )
    if columns != columns_of((source,)):
        raise InvalidInput.of(
            "prompt",
            "is not the one the picture was inverted with",
            f"{columns} embedding columns",
            f"{columns_of((source,))}, as the trajectory's prompt has",
            "Connect the text of NMG Invert's prompt, and its CLIP.",
        )
