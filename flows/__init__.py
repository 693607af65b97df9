"""Campaigns: what is asked, how it is run, and what came out.

`from flows import Campaign` is the public name; importing the package alone costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.campaign.notebook import Campaign

__all__ = ["Campaign"]


def __getattr__(name: str) -> Any:
    if name == "Campaign":
        from flows.campaign.notebook import Campaign

        return Campaign
    raise AttributeError(f"module 'flows' has no attribute {name!r}")
