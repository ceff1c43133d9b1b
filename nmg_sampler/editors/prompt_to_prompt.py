"""Prompt-to-Prompt, arXiv 2208.01626: the target takes its attention maps from the source.

With A_s and A_t the maps of source and target under their texts; the unconditional half is left
alone:

    cross-attention   A_t <- c (F * w) + (1 - c) A_t    F from the alignment of the prompts
    self-attention    A_t <- A_s                        in a part of the run

c is 1 while a column's schedule lasts, w re-weights columns; nothing is renormalised, as published.
Self-attention needs no maps for that: the network's own kernel, given the source's queries and keys
and the target's values, computes the same.
"""

import math
from dataclasses import dataclass

import torch

from ..contract.attention import (
    Attends,
    AttentionCall,
    AttentionLayer,
    Half,
    apply_probabilities,
    probabilities,
)
from ..contract.editor import Editor, EditorRun
from ..contract.guidance import Run
from ..contract.prompts import BranchPrompts
from ..errors import InvalidInput
from ..trajectory.schedule import Step
from ..words.prompt import TokenizedPrompt
from ..words.settings import self_steps
from .local_blend import BlendRun, LocalBlend
from .prompt_edit import EditedMaps, PromptEdit

# Self-attention is taken over where a layer has at most so many cells (32 x 32, as published) or a
# quarter of the latent's: finer ones would fix the texture.
_SELF_CELLS = 1024


@dataclass(frozen=True, eq=False)
class PromptToPrompt(Editor):
    """Prompt-to-Prompt with its settings.

    Attributes:
        edits: one per target prompt, all from the same source prompt.
        self_replace: part of the run in which self-attention maps are taken over: the end, or
            (start, end), 0..1.
        blend: keeps the edit local; or None.
        source: the source prompt, to know another one by; None where it is not known.

    Raises:
        InvalidInput: a setting leaves its range, or the blend is for another number of targets.
    """

    edits: tuple[PromptEdit, ...]
    self_replace: float | tuple[float, float] = 0.5
    blend: LocalBlend | None = None
    source: TokenizedPrompt | None = None

    def __post_init__(self) -> None:
        self_steps(1, self.self_replace)
        if self.blend is not None and len(self.blend.words) != len(self.edits):
            raise InvalidInput.of(
                "blend_words",
                "do not fit the prompts",
                f"words for {len(self.blend.words)} prompts",
                f"words for {len(self.edits)}",
                "Name a pair of words for each.",
            )

    @property
    def columns(self) -> tuple[int, ...]:
        """Length of the source prompt and of each target prompt, in embedding columns."""
        return self.edits[0].columns[0], *(edit.columns[1] for edit in self.edits)

    def check(self, prompts: BranchPrompts) -> None:
        ours, theirs = self.columns, prompts.columns
        if len(theirs) != len(ours):
            raise InvalidInput.of(
                "editor",
                "is made for another number of target prompts",
                f"{len(ours) - 1} in the editor, {len(theirs) - 1} in positive",
                "the same prompts in both",
                "Connect the same texts to both; each line of the editor's target_prompt is one.",
            )
        # Prompts encoded together are repeated to one length.
        together = ours[:1] + (math.lcm(*ours[1:]),) * (len(ours) - 1)
        if theirs not in (ours, together):
            raise InvalidInput.of(
                "editor",
                "is made for other prompts than those connected",
                f"{ours} embedding columns in the editor, {theirs} in the trajectory and positive",
                "the same texts, by the same CLIP",
                "Connect the same texts to the editor and to the CLIP Text Encode nodes.",
            )
        if self.source is not None:
            prompts.check_are((self.source, *(edit.target for edit in self.edits)))

    def begin(self, run: Run) -> EditorRun:
        return _PromptToPromptRun(self, run)


class _PromptToPromptRun(EditorRun):
    """Prompt-to-Prompt at work: schedules over its steps, and the maps of the blend so far."""

    def __init__(self, editor: PromptToPrompt, run: Run) -> None:
        super().__init__(run)
        # The schedules count the steps of the inversion: a last one that changes nothing is not
        # sampled, but it is there.
        steps = len(run.trajectory.schedule.levels) - 1
        self.columns = editor.columns
        self.maps = [EditedMaps(edit, steps) for edit in editor.edits]
        self.self_steps = self_steps(steps, editor.self_replace)
        latent = run.trajectory.shape[2:]
        self.blend = editor.blend and BlendRun(editor.blend, run.branches, latent, steps)
        self.self_cells = max(_SELF_CELLS, math.prod(latent) // 4)

    def attention(self, step: Step) -> "_StepEdit | None":
        crosses = any(maps.acts(step.index) for maps in self.maps)
        selves = step.index in self.self_steps
        if not (crosses or selves or self.blend):
            return None
        return _StepEdit(self, step.index, crosses, selves)

    def settle(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        return x if self.blend is None else self.blend.settle(x, step.index)


@dataclass(frozen=True, eq=False)
class _StepEdit:
    """The attention of step `index`: whether cross- and self-attention are taken over in it."""

    run: _PromptToPromptRun
    index: int
    crosses: bool
    selves: bool

    def wants(self, layer: AttentionLayer) -> bool:
        if layer.attends is Attends.SELF:
            return self.selves
        return self.crosses or (self.run.blend is not None and self.run.blend.sees(layer))

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        if call.half is not Half.COND:
            return call.plain()
        return self._self(call) if call.layer.attends is Attends.SELF else self._cross(call)

    def _self(self, call: AttentionCall) -> torch.Tensor:
        """The source's maps over each branch's own values."""
        if math.prod(call.size) > self.run.self_cells:
            return call.plain()
        q, k = (call.branches.repeat(each[call.branches.source_rows]) for each in (call.q, call.k))
        return call.attend(q, k, call.v)

    def _cross(self, call: AttentionCall) -> torch.Tensor:
        """All branches through materialised maps: where texts are equal so are results, bitwise."""
        parts = map(call.branches.split, (call.q, call.k, call.v))
        (source, values), *targets = [
            (probabilities(q, k[:, :, :columns]), v[:, :, :columns])
            for columns, q, k, v in zip(self.run.columns, *parts, strict=True)
        ]
        results = [apply_probabilities(source, values)]
        for target, (own, values) in enumerate(targets):
            edited = self.run.maps[target](source, own, self.index)
            if self.run.blend is not None and self.run.blend.sees(call.layer):
                self.run.blend.add(target, source, edited, call.size)
            results.append(apply_probabilities(edited, values))
        return torch.cat(results)
