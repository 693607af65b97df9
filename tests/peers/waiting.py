"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def soon(happens: Callable[[], bool], seconds: float = 120) -> bool:
    """Say whether something happens within some seconds: what others do is seen a little late."""
    until = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
