"""Summary of structures that could not be read: the first ten with their reasons, and a count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from materials.records import Failure
    from materials.store.ledger import Ledger

SHOWN = 10


def unread_lines(messages: Sequence[str]) -> list[str]:
    """Name the first ten, each with its reason, and count the others."""
    more = len(messages) - SHOWN
    return [*messages[:SHOWN], *([f"and {more} more: assay status --format json names all"] if more > 0 else [])]


def unread_named(ledger: Ledger, name: str) -> list[Failure]:
    """Find what could not be read by its file: its name, its path or the end of either, or its place in it."""
    return [failure for failure in ledger.unread() if _means(name.removeprefix("./"), failure.material_id)]


def _means(name: str, origin: str) -> bool:
    return name != "" and any(
        whole == name or whole.endswith(f"/{name}") or name.endswith(f"/{whole}")
        for whole in (origin, origin.rpartition("#")[0] or origin)
    )
