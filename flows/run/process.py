"""The process that runs a campaign, so that `assay status` can tell a live run from a killed one."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

APART_S = 3.0  # of two readings of one start time: a clock that is set moves it a little


def here() -> dict[str, str]:
    """Name this process, so that no other is taken for it: numbers are given again."""
    import psutil

    return {
        "host": socket.gethostname(),
        "process": str(os.getpid()),
        "process_started": f"{psutil.Process().create_time():.2f}",
    }


def lives(told: Mapping[str, Any]) -> bool | None:
    """Say whether the process that `here` named still runs; None where that cannot be seen from here."""
    if told.get("host") != socket.gethostname():
        return None
    import psutil

    try:
        process = psutil.Process(int(told["process"]))
        began = float(told["process_started"])
        return abs(process.create_time() - began) < APART_S and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, KeyError):
        return False
    except psutil.Error:  # somebody else's
        return None
