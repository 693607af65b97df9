"""Summary of structures that could not be read: the first ten with their reasons, and a count."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 10


def unread_lines(messages: Sequence[str]) -> list[str]:
    """Name the first ten, each with its reason, and count the others."""
    more = len(messages) - SHOWN
    return [*messages[:SHOWN], *([f"and {more} more: assay status --format json names all"] if more > 0 else [])]
