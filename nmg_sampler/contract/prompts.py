"""What an editor is told of the prompts that a run's branches are under."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from ..words.prompt import TokenizedPrompt


@dataclass(frozen=True)
class BranchPrompts:
    """The prompts of a run, that of the source first, then one per target.

    Attributes:
        columns: length of each in embedding columns.
        words: each cut into tokens, where that is known; None where it is not.
    """

    columns: tuple[int, ...]
    words: tuple[TokenizedPrompt | None, ...]

    @staticmethod
    def unknown(columns: Sequence[int]) -> "BranchPrompts":
        """Prompts of which only the lengths are known."""
        return BranchPrompts(tuple(columns), (None,) * len(columns))

    def check_are(self, prompts: Sequence[TokenizedPrompt]) -> None:
        """Raises InvalidInput if one is known to be another prompt than an editor is made for.

        Args:
            prompts: those of the editor, the source's first.
        """
        for place, (ours, theirs) in enumerate(zip(prompts, self.words, strict=False)):
            if theirs is not None and theirs.ids != ours.ids:
                raise InvalidInput.of(
                    "editor",
                    "is made for another prompt than the one connected",
                    f"{ours.text!r} in the editor, {theirs.text!r} in"
                    f" {'positive' if place else 'the trajectory'}",
                    "the same text in both",
                    "Connect one text to both, or leave the editor's texts empty.",
                )

    def known(self, who: str) -> tuple[TokenizedPrompt, ...]:
        """The words of all, for an editor that brings no texts of its own.

        Args:
            who: what the editor is called.

        Raises:
            InvalidInput: those of one are not known.
        """
        for place, words in enumerate(self.words):
            if words is None:
                raise InvalidInput.of(
                    "editor",
                    f"needs the words of the prompts, and {who} was given no texts",
                    f"{'positive' if place else 'the trajectory'} without its words",
                    "prompts that keep their words, or clip and both texts",
                    f"Encode both prompts with NMG Prompts, or connect clip and texts to {who}.",
                )
        return self.words
