"""Progress of a campaign: bars on a terminal, plain lines elsewhere, and where the time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from flows.output import terminal
from materials.plain_text import duration, printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

QUIET_S = 10.0  # between two lines of a stage that is no terminal's bar


class Counter(Protocol):
    """Counts what a stage has done."""

    def advance(self, count: int = 1) -> None:
        """Say that `count` more are done."""


class Progress:
    """Tells how far a campaign is, and adds up the seconds of each stage."""

    def __init__(self, say: Callable[[str], None] | None = None, *, bars: bool | None = None) -> None:
        """Make one.

        Args:
            say: Where lines go; by default to standard error, so that standard output stays the table's.
            bars: Draw bars; by default where standard error is a terminal.
        """
        self._say = say or terminal.say
        self._bars = (say is None and sys.stderr.isatty()) if bars is None else bars
        self._display: RichProgress | None = None
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]  # seconds of the stages inside each that is under way

    def say(self, line: str) -> None:
        """Print a line, above the bars where there are any."""
        line = printable(line)
        if self._display is not None:
            self._display.console.print(line, highlight=False, markup=False, emoji=False)
        else:
            self._say(line)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that pass inside to those of the stage; those of a stage within it are only that one's."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.spend(stage, took - self._inner.pop())
            self._inner[-1] += took

    def spend(self, stage: str, seconds: float) -> None:
        """Add seconds to those of the stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def counting(self, title: str, total: int, unit: str) -> Iterator[Counter]:
        """Count towards a total, with rate and time left."""
        title = printable(title)
        if self._bars:
            with self._bar(title, total, unit) as counter:
                yield counter
        else:
            counter = _Lines(self._say, title, total, unit)
            yield counter
            counter.finish()

    @contextmanager
    def _bar(self, title: str, total: int, unit: str) -> Iterator[Counter]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=cast(TextIO, terminal.Lossy(sys.stderr)))) as display:
            self._display = display
            try:
                yield _Bar(display, title, total, unit)
            finally:
                self._display = None


class _Bar:
    def __init__(self, display: RichProgress, title: str, total: int, unit: str) -> None:
        self._display, self._unit, self._start, self._done = display, unit, time.perf_counter(), 0
        self._task = display.add_task(title, total=total, rate="")

    def advance(self, count: int = 1) -> None:
        self._done += count
        self._display.update(self._task, advance=count, rate=_rate(self._done, self._start, self._unit))


class _Lines:
    def __init__(self, say: Callable[[str], None], title: str, total: int, unit: str) -> None:
        self._say, self._title, self._total, self._unit = say, title, total, unit
        self._start = self._last = time.perf_counter()
        self._done = 0
        say(f"{title}: {total} {unit}")

    def advance(self, count: int = 1) -> None:
        self._done += count
        now = time.perf_counter()
        if now - self._last >= QUIET_S and self._done < self._total:
            self._last = now
            left = (now - self._start) / self._done * (self._total - self._done) if self._done else 0.0
            rate = _rate(self._done, self._start, self._unit)
            self._say(f"  {self._done} of {self._total} {self._unit}, {rate}, about {duration(left)} left")

    def finish(self) -> None:
        took = time.perf_counter() - self._start
        self._say(f"  {self._done} of {self._total} {self._unit} in {duration(took)}")


def _rate(done: int, start: float, unit: str) -> str:
    per_second = done / max(time.perf_counter() - start, 1e-9)
    return f"{per_second:.1f} {unit}/s" if per_second >= 0.1 else f"{per_second * 60:.1f} {unit}/min"
