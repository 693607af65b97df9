"""Subnormal numbers flushed to zero: processors handle them up to a hundred times slower.

The hidden layers of CHGNet reach values of hundreds; the exponentials of their negatives are subnormal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Have numbers below 1e-38 (double precision: 1e-308) count as zero on this thread."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
