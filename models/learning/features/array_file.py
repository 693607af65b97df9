"""Array file: a table of numbers on disk, a few thousand rows of it in memory at once."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from numpy.typing import NDArray


class RowFile:
    """Rows of double precision, written from the first to the last and read in slices."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._n_rows = self._n_columns = 0
        self._kept: int | None = None

    def append(self, rows: NDArray[np.floating]) -> None:
        """Add rows, shape (n, n_columns), as many columns each time."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(rows, dtype=np.float64).tobytes())
        self._n_rows, self._n_columns = self._n_rows + len(rows), rows.shape[1]

    def keep_first(self, n_columns: int) -> None:
        """Leave out the columns after the first `n_columns`."""
        self._kept = n_columns

    def __len__(self) -> int:
        return self._n_rows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._n_rows, self._n_columns if self._kept is None else self._kept

    def __getitem__(self, rows: slice) -> NDArray[np.float64]:
        start, stop, _ = rows.indices(self._n_rows)
        self._file.seek(8 * self._n_columns * start)
        found = self._file.read(8 * self._n_columns * max(stop - start, 0))
        return np.frombuffer(found).reshape(-1, self._n_columns)[:, : self._kept]

    def close(self) -> None:
        """Give its place on the disk back."""
        self._file.close()
