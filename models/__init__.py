"""What computes: potentials, relaxation, learning and DFT.

`from models import Potential` is the public name; importing the package alone costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.notebook import Potential

__all__ = ["Potential"]


def __getattr__(name: str) -> Any:
    if name == "Potential":
        from models.notebook import Potential

        return Potential
    raise AttributeError(f"module 'models' has no attribute {name!r}")
