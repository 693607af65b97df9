"""What is known of materials: records, crystals, sources, hulls, targets and the ledger.

`from materials import Ledger` is the public name; importing the package alone costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from materials.store.ledger import Ledger

__all__ = ["Ledger"]


def __getattr__(name: str) -> Any:
    if name == "Ledger":
        from materials.store.ledger import Ledger

        return Ledger
    raise AttributeError(f"module 'materials' has no attribute {name!r}")
