"""How a gradient pass gets by with the memory there is: what it keeps, what it computes again.

Every plan gives the same gradient, bit for bit; the smaller one takes longer.
"""

from collections import defaultdict
from collections.abc import Sequence
from enum import Enum
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher

# Where a model's options carry the plan that the user chose.
OPTION = "nmg_gradient_memory"


class Plan(str, Enum):
    """What is kept between the two passes, the most first."""

    KEEP = "keep"  # every activation
    BLOCKS = "blocks"  # what goes into each block, which then runs a second time


PLANS = list(Plan)
# The peak of a gradient pass that keeps everything, in units of what the host expects of a forward
# pass with PyTorch's attention: measured by benchmarks/gradient_memory.py.
_KEPT, _KEPT_OF_TRANSFORMERS = 20.0, 65.0
# What the host expects per element of a latent, in MB: see `BaseModel.memory_required`.
_PER_BYTE, _PER_ELEMENT_OTHERWISE = 0.01, 0.15


def with_plan(model: ModelPatcher, plan: Plan | None) -> ModelPatcher:
    """A clone of the model whose gradient passes go by this plan; None leaves it to the pack."""
    model = model.clone()
    model.model_options.pop(OPTION, None)
    if plan is not None:
        model.model_options[OPTION] = plan.value
    return model


def choose_plan(
    options: dict[str, Any],
    model: BaseModel,
    shape: Sequence[int],
    conditions: Sequence[dict[str, Any]],
    others: Sequence[torch.nn.Module],
) -> tuple[Plan, str]:
    """(the plan of a run, why it is that one).

    Args:
        options: of the model, where the user may have chosen.
        model: loaded by the host.
        shape: (rows, channels, ...) of the state.
        conditions: the parts of its prompt, each of which is a pass; those of the guider.
        others: the networks that this run uses beside the model.
    """
    if OPTION in options:
        return Plan(options[OPTION]), "as NMG Gradient Memory says"
    wanted = kept_bytes(model, shape, conditions)
    free = make_room(wanted, model, others)
    plan = Plan.KEEP if wanted < free else Plan.BLOCKS
    return plan, f"to keep everything takes about {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB free"


def kept_bytes(
    model: BaseModel, shape: Sequence[int], conditions: Sequence[dict[str, Any]]
) -> float:
    """About how much a gradient pass takes that keeps every activation, weights not counted.

    Arguments as for `choose_plan`.
    """
    factor = _KEPT if isinstance(model.diffusion_model, UNetModel) else _KEPT_OF_TRANSFORMERS
    # A ControlNet is half a network, and writes into activations: they are kept as copies.
    passes = sum(2.0 if "control" in condition else 1.0 for condition in conditions)
    return factor * passes * forward_bytes(model, shape, conditions[0].get("model_conds", {}))


def forward_bytes(model: BaseModel, shape: Sequence[int], values: dict[str, Any]) -> float:
    """What the host expects of a forward pass with PyTorch's attention, weights not counted.

    Args:
        model: any of the host's.
        shape: (rows, channels, ...) of the state.
        values: those of a condition, by the network's names for them.
    """
    sizes: dict[str, list[Sequence[int]]] = defaultdict(list)
    for name, value in values.items():
        sizes[name].append(value.size())
    expected = model.memory_required(list(shape), cond_shapes=sizes)
    # The gradient pass has an attention of its own: the estimate must not depend on the user's.
    management = comfy.model_management
    if not (management.xformers_enabled() or management.pytorch_attention_flash_attention()):
        item = management.dtype_size(model.get_dtype_inference())
        expected *= item * _PER_BYTE / _PER_ELEMENT_OTHERWISE
    return expected


def make_room(wanted: float, model: BaseModel, others: Sequence[torch.nn.Module]) -> float:
    """Free bytes where the model is, after models of other runs have gone if it is too little.

    Args:
        wanted: bytes.
        model: loaded by the host.
        others: the networks that this run uses beside it.
    """
    device = model.current_patcher.load_device
    free = _free(model, device)
    if free < wanted and device.type != "cpu":
        management = comfy.model_management
        loaded = management.current_loaded_models
        stay = [each for each in loaded if each.model is None or _is_of(each.model, model, others)]
        management.free_memory(wanted, device, keep_loaded=stay)
        free = _free(model, device)
    return free


def _free(model: BaseModel, device: torch.device) -> float:
    # Weights that the host lets in and out as needed count as free, for the host as well.
    ask = getattr(model.current_patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return ask(device)


def _is_of(patcher: Any, model: BaseModel, others: Sequence[torch.nn.Module]) -> bool:
    return patcher.model is model or any(patcher.model is other for other in others)
