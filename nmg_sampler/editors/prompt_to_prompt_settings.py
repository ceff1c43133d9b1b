"""Prompt-to-Prompt as it is before its prompts are known: what is said about words, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..contract.editor import Editor
from ..contract.prompts import BranchPrompts
from ..words.alignment import AlignmentMode, align
from ..words.lines import each
from ..words.prompt import TokenizedPrompt
from ..words.settings import blend_columns, word_weights
from .local_blend import LocalBlend
from .prompt_edit import PromptEdit
from .prompt_to_prompt import PromptToPrompt


@dataclass(frozen=True)
class PromptToPromptSettings(Editor):
    """An editor that becomes Prompt-to-Prompt with the prompts of the run it takes part in.

    Attributes:
        mode: how the words of the prompts find each other.
        cross_replace, self_replace: parts of the run, see `PromptEdit` and `PromptToPrompt`.
        blend_words: "cat, tiger", or a line of that per target; empty is no local blend.
        reweight: "tiger:2.0", or a line of that per target.
        word_schedules: "tiger:0.4", or a line of that per target.
        blend_threshold, blend_start: of the local blend.
    """

    mode: AlignmentMode | str = AlignmentMode.AUTO
    cross_replace: float | tuple[float, float] = 0.8
    self_replace: float | tuple[float, float] = 0.5
    blend_words: str = ""
    reweight: str = ""
    word_schedules: str = ""
    blend_threshold: float = LocalBlend.threshold
    blend_start: float = LocalBlend.start

    def bound(self, prompts: BranchPrompts) -> Editor:
        source, *targets = prompts.known("Prompt-to-Prompt")
        return self.between(source, targets)

    def between(
        self, source: TokenizedPrompt, targets: Sequence[TokenizedPrompt]
    ) -> PromptToPrompt:
        """The editor from a source prompt to target prompts.

        Raises:
            InvalidInput: a setting cannot be read, leaves its range, or names a word that is not
                there; or its lines do not fit the number of prompts.
        """
        per_target = zip(
            targets,
            each(self.reweight, targets, "reweight"),
            each(self.word_schedules, targets, "word_schedules"),
            strict=True,
        )
        edits = tuple(
            PromptEdit(
                target,
                align(source, target, self.mode),
                word_weights(target, weights),
                self.cross_replace,
                schedules,
            )
            for target, weights, schedules in per_target
        )
        return PromptToPrompt(edits, self.self_replace, self._blend(source, targets), source)

    def _blend(
        self, source: TokenizedPrompt, targets: Sequence[TokenizedPrompt]
    ) -> LocalBlend | None:
        if not self.blend_words.strip():
            return None
        words = each(self.blend_words, targets, "blend_words")
        pairs = (blend_columns(source, *pair) for pair in zip(targets, words, strict=True))
        return LocalBlend(tuple(pairs), self.blend_threshold, self.blend_start)
