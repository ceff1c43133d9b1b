"""Whether this ComfyUI has what the pack needs, asked before anything else of the pack is imported.

Outside nodes/host/, which cannot be imported where the answer is no: it has the host's names alone.
"""

import importlib
import re

OLDEST_COMFYUI = "0.16.3"
# What the pack cannot do without and a host may lack: the node API, casting weights on request
# (the full gradient) and the sampling path.
NEEDED = (
    "comfy_api.latest.ComfyExtension",
    "comfy_api.latest.io",
    "comfy.ops.CastWeightBiasOp",
    "comfy.ops.cast_bias_weight",
    "comfy.ops.uncast_bias_weight",
    "comfy.samplers.CFGGuider",
    "comfy.samplers.calc_cond_batch",
)


def find_problem() -> str | None:
    """Why the pack cannot run in this ComfyUI and what to do, in one line; None if it can."""
    version = _version()
    if version is not None and _numbers(version) < _numbers(OLDEST_COMFYUI):
        reason = f"it needs ComfyUI {OLDEST_COMFYUI} or newer, and this is {version}"
    elif missing := [name for name in NEEDED if not _exists(name)]:
        reason = f"this ComfyUI ({version or 'of an unknown version'}) lacks {', '.join(missing)}"
    else:
        return None
    return f"Noise Map Guidance is not loaded: {reason}. Update ComfyUI."


def _version() -> str | None:
    try:
        return importlib.import_module("comfyui_version").__version__
    except (ImportError, AttributeError):
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False
