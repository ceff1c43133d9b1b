"""Advice: what runs but is seldom meant, in a line on the node and in the log. Never an error."""

import logging
from collections.abc import Sequence

from .display import show_text
from .sockets import io

# The nodes that show advice: the interface leaves a text on a node until another one comes.
_SHOWING: set[str] = set()
_BLANK = " "  # an empty text the interface would not take


def is_fed_to(node: type[io.ComfyNode], output: int, kinds: Sequence[str]) -> bool:
    """Whether an output of the node that runs goes straight into a node of one of these kinds."""
    hidden = node.hidden
    graph = getattr(hidden, "prompt", None) or {}
    wire = [getattr(hidden, "unique_id", None), output]
    takers = (each for each in graph.values() if each.get("class_type") in kinds)
    return any(wire in list(each.get("inputs", {}).values()) for each in takers)


def advise(node: type[io.ComfyNode], name: str, lines: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Shows each line on the node that runs, and writes it to the log under the node's name.

    Without a line it takes off what an earlier run has shown.

    Returns:
        what the node's `ui` has to say of it, for who runs graphs without the interface.
    """
    for line in lines:
        logging.warning("%s: %s", name, line)
    place = getattr(node.hidden, "unique_id", None)
    if lines:
        show_text(node, "\n".join(lines))
        _SHOWING.add(place)
    elif place in _SHOWING:
        show_text(node, _BLANK)
        _SHOWING.discard(place)
    return {"text": tuple(lines)} if lines else {}
