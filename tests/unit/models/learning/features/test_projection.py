import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from materials.errors import InputError
from models.learning.features.projection import freeze


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 6))
    mixed = hidden @ rng.normal(size=(6, 50)) * np.geomspace(1e-3, 1e4, 50) + np.linspace(-100, 100, 50)
    return np.hstack([mixed, np.full((300, 1), 7.0)])


def test_distances_are_those_of_z_scores_up_to_one_number(table):
    frozen = freeze(table)
    projected = frozen.transform(table)
    assert projected.shape == (300, 6)
    assert frozen.widths == (6,)
    z = (table - table.mean(axis=0))[:, :50] / table.std(axis=0)[:50]
    ratio = pdist(projected) / pdist(z)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-9)
    assert projected.var(axis=0).mean() == pytest.approx(1)
    theirs = PCA(3).fit_transform(z)
    ours = freeze(table, n_components=3).transform(table)
    np.testing.assert_allclose(np.abs(np.corrcoef(ours.T, theirs.T)[:3, 3:]), np.eye(3), atol=1e-6)


def test_each_group_has_components_of_its_own(table):
    groups = [[0, 7], list(range(10, 51)), []]
    frozen = freeze(table, groups=groups)
    projected = frozen.transform(table)
    assert frozen.widths == (2, 6, 0)
    for columns, part in ((groups[0], projected[:, :2]), (groups[1], projected[:, 2:])):
        alone = freeze(table[:, columns]).transform(table[:, columns])
        np.testing.assert_allclose(part, alone, atol=1e-6)
    constant = np.hstack([np.ones((300, 1)), table])
    assert freeze(constant, groups=[[0, 1], [2, 3, 4]]).widths == (1, 3)
    assert freeze(table, groups=groups, n_components=3).widths == (2, 3, 0)


def test_what_is_frozen_does_not_move_with_the_rows_it_is_asked_about(table):
    frozen = freeze(table)
    np.testing.assert_array_equal(frozen.transform(table)[10:12], frozen.transform(table[10:12]))
    assert frozen.version == freeze(table.copy()).version
    assert frozen.version != freeze(table[:200]).version


def test_units_do_not_matter(table):
    scaled = table * np.geomspace(1e-6, 1e6, table.shape[1])
    np.testing.assert_allclose(
        np.abs(freeze(scaled).transform(scaled)), np.abs(freeze(table).transform(table)), atol=1e-5
    )


def test_missing_numbers_count_as_the_mean(table):
    holes = table.copy()
    holes[5, 3] = np.nan
    holes[6, :] = np.inf
    frozen = freeze(holes)
    projected = frozen.transform(holes)
    assert np.isfinite(projected).all()
    filled = holes.copy()
    filled[5, 3] = np.mean(np.delete(table[:, 3], [5, 6]))
    np.testing.assert_allclose(projected[5], frozen.transform(filled)[5], atol=1e-6)
    everything_missing = frozen.transform(np.full((1, 51), np.nan))
    np.testing.assert_array_equal(everything_missing, np.zeros((1, projected.shape[1])))


def test_degenerate_tables(table):
    assert freeze(table[:1]).transform(table[:4]).shape == (4, 0)
    assert freeze(np.full((5, 3), np.nan)).transform(np.zeros((2, 3))).shape == (2, 0)
    with pytest.raises(InputError, match="at least one described candidate"):
        freeze(table[:0])
    with pytest.raises(InputError, match="frozen with 51 columns"):
        freeze(table).transform(table[:, :40])
