from contextlib import closing

import numpy as np

from models.learning.features.array_file import RowFile
from models.learning.features.projection import freeze


def test_rows_come_back_as_they_were_in_any_slice() -> None:
    table = np.random.default_rng(0).normal(size=(11, 3))
    with closing(RowFile()) as rows:
        rows.append(table[:4])
        rows.append(table[4:])
        assert (len(rows), rows.shape) == (11, (11, 3))
        for part in (slice(0, 11), slice(2, 5), slice(9, 100), slice(5, 5)):
            np.testing.assert_array_equal(rows[part], table[part])
        rows.keep_first(2)
        rows.append(table)
        assert rows.shape == (22, 2)
        np.testing.assert_array_equal(rows[10:13], np.vstack([table, table])[10:13, :2])


def test_a_projection_of_rows_on_disk_is_that_of_rows_in_memory() -> None:
    table = np.random.default_rng(1).normal(size=(300, 20))
    with closing(RowFile()) as rows:
        rows.append(table)
        np.testing.assert_array_equal(freeze(rows).transform(rows), freeze(table).transform(table))
