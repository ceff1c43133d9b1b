"""Strengths that follow a falling sigma, at any sigma as sampling has them there.

The host lets the keyframes of hooks (LoRA schedules) advance while sigma falls and never back. An
inversion climbs, and looks at single noise maps jump.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .conditions import Condition


class Keyframes:
    """Those of all prompts of a run.

    Args:
        patcher: the model that runs.
        conditions: of all its prompts, as the host has processed them.
        options: of the model in this run; in it the levels of the run, noisiest first.
    """

    def __init__(
        self, patcher: ModelPatcher, conditions: Iterable[Condition], options: dict[str, Any]
    ) -> None:
        self.patcher = patcher
        self.options: dict[str, Any] = options.get("transformer_options", {})
        hooks = (hook for each in conditions if each.get("hooks") for hook in each["hooks"].hooks)
        groups = {id(hook.hook_keyframe): hook.hook_keyframe for hook in hooks}
        self.groups = [group for group in groups.values() if not group.is_empty()]
        self.sigma: float | None = None

    def go_to(self, sigma: torch.Tensor) -> None:
        """Puts them where a sampler has them at this level, (rows,)."""
        if not self.groups or float(sigma[0]) == self.sigma:
            return
        self.sigma = float(sigma[0])
        levels = self.options["sample_sigmas"]
        passed = [*levels[levels > sigma[0]], sigma[0]]
        before = [group.strength for group in self.groups]
        for group in self.groups:
            # A level it was asked at last it takes no notice of: none is infinite.
            group.prepare_current_keyframe(torch.tensor(math.inf), self.options)
            group.reset()
            for level in passed:
                group.prepare_current_keyframe(level, self.options)
        if before != [group.strength for group in self.groups]:
            self.patcher.clear_cached_hook_weights()
