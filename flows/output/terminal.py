"""Terminal output that survives a closed terminal, a hang-up, or a pipe without a reader."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, TextIO


class Lossy:
    """A stream for what is nice to know: where it can no longer be written, it is lost, and nothing else happens."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # the latter of a stream that is closed
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line, to standard error where nothing else is named, if there is anybody."""
    print(line, file=Lossy(stream or sys.stderr), flush=True)


def make_whole() -> None:
    """Open what of the three standard streams is closed: a file that is opened later must not become one of them.

    What a stream's encoding has no character for is written as an escape.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def let_go() -> None:
    """Leave standard output and error to nobody: what is still in their buffers would be told as an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def stop_signals() -> list[signal.Signals]:
    """Name the signals that ask a run to stop; a hang-up that is ignored, as under nohup, stays ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]
