"""Choices and comments in a text: ComfyUI's interface takes them out, and nobody else does.

The interface resolves them in a text that is typed into a box marked for it (`dynamic_prompts`, as
that of CLIP Text Encode): comments go, one of "{red|green}" is drawn, "\\{" becomes "{". A text
from another node, from a subgraph's box or from the API arrives as it was written.
"""

import re

from ....nmg_sampler import InvalidInput

_COMMENT = re.compile(r"//|/\*.*?\*/", re.DOTALL)
_ESCAPED = re.compile(r"\\[{}|]")


def check_resolved(text: str, argument: str) -> None:
    """For a text that a node encodes: the interface has taken out what it takes out.

    Braces without a choice in them are taken as written: the interface leaves them for "\\{".

    Raises:
        InvalidInput: there is a comment, a choice or an escaped brace in it.
    """
    found = _comment(text) or _choice(text) or _escaped(text)
    if found:
        raise InvalidInput.of(
            argument,
            f"has {found} that nothing has resolved",
            repr(text),
            "plain text",
            "Type it into the box of the node itself, where ComfyUI's interface resolves it, or"
            " write out what you want.",
        )


def check_plain(text: str, argument: str) -> None:
    """For a text that must be another node's: nothing in it that the interface changes there.

    Raises:
        InvalidInput: there is a comment or a brace in it.
    """
    found = _comment(text) or _choice(text) or _escaped(text) or ("a brace" if "{" in text else "")
    if found:
        raise InvalidInput.of(
            argument,
            f"has {found}, which ComfyUI's interface resolves in the node that encodes the prompt"
            " and not here",
            repr(text),
            "the text that was encoded",
            "Encode the prompts with NMG Prompts, which keeps their words, and leave the texts here"
            " empty; or write plain text in both places.",
        )


def _comment(text: str) -> str:
    return "a comment" if _COMMENT.search(text) else ""


def _escaped(text: str) -> str:
    return "an escaped brace" if _ESCAPED.search(text) else ""


def _choice(text: str) -> str:
    """Whether a bar stands between braces; the interface closes a last one itself."""
    depth = 0
    for character in text:
        depth = max(depth + (character == "{") - (character == "}"), 0)
        if character == "|" and depth:
            return "a choice in braces"
    return ""
