"""Checkpoint of a VASP calculation, written while it runs."""

from __future__ import annotations

import os
import threading
import time

from models.dft.runtime import calculation as course

CHECKPOINT = "checkpoint.json"
POLL_S = 0.2


class Book:
    """What the calculation has come to, over all its attempts: it lies in the checkpoint.

    A thread writes it at each step, and every second: whoever is killed has told how far he was.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.before = 0  # ionic steps of the runs before this one
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def n_steps(self) -> int:
        """Ionic steps so far."""
        return self.before + steps_in("OSZICAR")

    def write(self) -> None:
        """Write it down."""
        with self._lock:
            if not self._closed.is_set():
                content = {
                    "before": self.before,
                    "n_steps": self.n_steps,
                    "wall_time_s": time.time() - self.started,
                }
                course.write(CHECKPOINT, content)

    def turn_page(self) -> None:
        """Count what has run, before VASP writes a new OSZICAR."""
        with self._lock:
            self.before = self.n_steps
            if os.path.exists("OSZICAR"):
                os.replace("OSZICAR", "OSZICAR.counted")
        self.write()

    def keep(self) -> None:
        """Write it down at each step, and every second."""
        last, written = -1, 0.0
        while not self._closed.wait(POLL_S):
            if self.n_steps != last or time.monotonic() > written + 1:
                last, written = self.n_steps, time.monotonic()
                self.write()

    def close(self) -> None:
        """Write no more: the calculation has ended."""
        with self._lock:
            self._closed.set()


def steps_in(name: str) -> int:
    """Ionic steps that an OSZICAR tells of."""
    try:
        with open(name, errors="replace") as file:
            return sum(" F= " in line for line in file)
    except FileNotFoundError:
        return 0
