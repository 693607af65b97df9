"""Write ranked.csv while rows stream to the ledger, and keep the rows that the report shows."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Self, TextIO

from flows.report.report import TOP
from materials.records import RankedCandidate


class Noted:
    """The rows of the table on their way to the ledger: what the report needs of them is noted, and a file written.

    They may be gone through more than once; the last time counts.
    """

    def __init__(self, rows: Callable[[], Iterable[RankedCandidate]], file: TextIO) -> None:
        self.rows: list[RankedCandidate] = []
        self.distances = array("d")
        self._make, self._file = rows, file

    @classmethod
    @contextmanager
    def in_folder(cls, rows: Callable[[], Iterable[RankedCandidate]], where: Path) -> Iterator[Self]:
        """Write `ranked.csv` there: as it was, or the new one, never half of it."""
        where.mkdir(parents=True, exist_ok=True)
        part = where / f"ranked.csv.{os.getpid()}"
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                yield cls(rows, file)
            part.replace(where / "ranked.csv")
        finally:
            part.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[RankedCandidate]:
        self.rows, self.distances = [], array("d")
        self._file.seek(0)
        self._file.truncate()
        writer = csv.writer(self._file, lineterminator="\n")
        names = tuple(RankedCandidate.__dataclass_fields__)
        values = attrgetter(*names)
        writer.writerow(names)
        in_line = 0
        for row in self._make():
            writer.writerow(values(row))
            if row.energy_above_hull_mlip is not None:
                self.distances.append(row.energy_above_hull_mlip)
            in_line += row.status != "validated"
            if row.status == "validated" or row.round is not None or in_line <= TOP:
                self.rows.append(row)
            yield row
