"""Spool of candidates on disk, between the sources and the ledger."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Sequence

from materials.records import WrittenCandidate

_NAMES = tuple(WrittenCandidate.__dataclass_fields__)


class CandidateFile(Sequence[WrittenCandidate]):
    """Candidates one after the other, each read anew when it is asked for: none is kept in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._ends = array("q", [0])

    def append(self, candidate: WrittenCandidate) -> None:
        """Add one."""
        text = json.dumps([getattr(candidate, name) for name in _NAMES], separators=(",", ":")).encode()
        self._file.seek(0, os.SEEK_END)
        self._file.write(text)
        self._ends.append(self._ends[-1] + len(text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> WrittenCandidate:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        self._file.seek(self._ends[index])
        values = dict(zip(_NAMES, json.loads(self._file.read(self._ends[index + 1] - self._ends[index])), strict=True))
        values.update(parents=tuple(values["parents"]), known_as=tuple(values["known_as"]))
        return WrittenCandidate(**values)

    def close(self) -> None:
        """Give its place on the disk back."""
        self._file.close()
