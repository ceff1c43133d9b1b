"""Errors that say which node speaks."""

from collections.abc import Iterator
from contextlib import contextmanager

from ....nmg_sampler import NMGError


@contextmanager
def speaking_as(node: str) -> Iterator[None]:
    """Puts the node's display name before the message of every error of the library."""
    try:
        yield
    except NMGError as error:
        raise type(error)(f"{node}: {error}") from error
