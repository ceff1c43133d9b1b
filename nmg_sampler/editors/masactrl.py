"""MasaCtrl, arXiv 2304.08465: the target draws its texture from the source, in another pose.

Mutual self-attention: from a step and a layer on, every branch keeps its queries and attends to the
source's keys and values, in each half of classifier-free guidance to those of the same half:

    out = softmax(Q K_s^T / sqrt(d)) V_s

Early steps and coarse layers are left alone: there the layout comes about, under the target prompt.
Only keys and values are exchanged, so the network's own kernel computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .. import checks
from ..contract.attention import Attends, AttentionCall, AttentionLayer, Half
from ..contract.column_maps import Columns
from ..contract.editor import Editor, EditorRun
from ..contract.guidance import Run
from ..contract.prompts import BranchPrompts
from ..errors import InvalidInput
from ..trajectory.schedule import Step
from ..words.lines import each
from ..words.prompt import TokenizedPrompt
from ..words.settings import blend_columns
from .masactrl_layers import Counting, is_reached
from .masactrl_masks import (
    ObjectMaps,
    Regions,
    check_region,
    mutual_attention,
    rows_of_edits,
)


@dataclass(frozen=True, eq=False)
class MasaCtrl(Editor):
    """MasaCtrl with its settings.

    Attributes:
        start_step: first step it acts in, from 0; later than the last step it changes nothing.
        start_layer: first transformer block it acts in, from 0; see `Counting`.
        counting: what `start_layer` counts.
        source_mask: (B or 1, 1, h, w) 0..1 of any size, 1 where the object is in the source; or
            None. Alone it stands for the target as well.
        target_mask: the same for the target: 1 where the object is to be. Alone it stands for the
            source as well.
        words: per target, the embedding columns (of the source prompt, of the target prompt) of
            the object: a mask that is not given is found from their cross-attention. Or empty.
        mask_words: such words as a text, "cat, tiger" or a line of that per target, to be looked
            for in the prompts of the run; `words` come before it.
        prompts: (source, *targets) that `words` are of, to know other ones by; or empty.
        mask_threshold: of those maps, 0..1 between minimum and maximum; 0 is the whole picture.

    Raises:
        InvalidInput: a setting leaves its range, a mask is none, or a target has no words.
    """

    start_step: int = 4
    start_layer: int = 10
    counting: Counting = Counting.SD1
    source_mask: torch.Tensor | None = None
    target_mask: torch.Tensor | None = None
    words: tuple[tuple[Columns, Columns], ...] = ()
    mask_threshold: float = 0.1
    mask_words: str = ""
    prompts: tuple[TokenizedPrompt, ...] = ()

    def __post_init__(self) -> None:
        for name in ("start_step", "start_layer"):
            checks.count(name, getattr(self, name), 0, "0 is the first.")
        object.__setattr__(self, "counting", checks.choice("counting", self.counting, Counting))
        for name in ("source_mask", "target_mask"):
            if getattr(self, name) is not None:
                check_region(name, getattr(self, name))
        if not all(all(pair) for pair in self.words):
            raise InvalidInput.of(
                "mask_words",
                "are missing for a prompt",
                "no word",
                "a word of the source and a word of the target prompt",
                "Name them as in 'cat, tiger'.",
            )
        checks.share("mask_threshold", self.mask_threshold, "0.1 is usual.")

    def bound(self, prompts: BranchPrompts) -> Editor:
        complete = self.source_mask is not None and self.target_mask is not None
        if self.words or complete or not self.mask_words.strip():
            return self
        source, *targets = prompts.known("MasaCtrl")
        return self.with_words(source, targets)

    def with_words(self, source: TokenizedPrompt, targets: Sequence[TokenizedPrompt]) -> "MasaCtrl":
        """The editor with its mask_words found in these prompts.

        Raises:
            InvalidInput: a word is not there, or the lines do not fit the number of prompts.
        """
        pairs = zip(targets, each(self.mask_words, targets, "mask_words"), strict=True)
        words = tuple(blend_columns(source, *pair, "mask_words") for pair in pairs)
        return replace(self, words=words, prompts=(source, *targets))

    def check(self, prompts: BranchPrompts) -> None:
        """Raises InvalidInput if its words are known not to be in these prompts."""
        if not self.words:
            return
        columns = prompts.columns
        if len(self.words) != len(columns) - 1:
            raise InvalidInput.of(
                "editor",
                "has mask words for another number of target prompts",
                f"words for {len(self.words)}, and {len(columns) - 1} in positive",
                "the same prompts in both",
                "Give the editor one line of target_prompt for each target prompt.",
            )
        for pair, target in zip(self.words, columns[1:], strict=True):
            for found, length in zip(pair, (columns[0], target), strict=True):
                if max(found) >= length:
                    raise InvalidInput.of(
                        "editor",
                        "has mask words that are not in the prompts connected",
                        f"a word in embedding column {max(found)} of {length}",
                        "the same texts, by the same CLIP",
                        "Connect the same texts to the editor and to the CLIP Text Encode nodes.",
                    )
        prompts.check_are(self.prompts)

    def begin(self, run: Run) -> EditorRun:
        return _MasaCtrlRun(self, run)


class _MasaCtrlRun(EditorRun):
    """MasaCtrl at work: the masks given, or those that the words' maps have shown so far."""

    def __init__(self, editor: MasaCtrl, run: Run) -> None:
        super().__init__(run)
        self.editor = editor
        self.source = rows_of_edits("source_mask", editor.source_mask, run.branches)
        self.target = rows_of_edits("target_mask", editor.target_mask, run.branches)
        complete = self.source is not None and self.target is not None
        wanted = editor.words and not complete and editor.start_step < run.total
        self.maps = ObjectMaps(editor.words, run.trajectory.shape[2:]) if wanted else None
        self.regions = Regions.of(self.source, self.target)

    def attention(self, step: Step) -> "_StepEdit | None":
        acts = step.index >= self.editor.start_step
        if acts and self.maps is not None and self.maps.seen:
            # Once per step, from the steps before: both halves of guidance see the same masks.
            source, target = self.maps.masks(self.editor.mask_threshold)
            self.regions = Regions.of(
                source if self.source is None else self.source,
                target if self.target is None else self.target,
            )
        if not acts and self.maps is None:
            return None
        return _StepEdit(self.editor, acts, self.regions, self.maps)


@dataclass(frozen=True, eq=False)
class _StepEdit:
    """The attention of one step: whether it is mutual yet, and whether words are looked for."""

    editor: MasaCtrl
    acts: bool
    regions: Regions | None
    maps: ObjectMaps | None

    def wants(self, layer: AttentionLayer) -> bool:
        if layer.attends is Attends.CROSS:
            return self.maps is not None and self.maps.sees(layer)
        return self.acts and is_reached(layer, self.editor.start_layer, self.editor.counting)

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        if call.layer.attends is not Attends.CROSS:
            return mutual_attention(call, self.regions)
        if call.half is Half.COND and self.maps is not None:
            self.maps.add(call)
        return call.plain()
