"""Collinear magnetic orders of a crystal: parallel, and antiparallel at each half reciprocal lattice vector.

All orders of one calculation live in one supercell, so that their energies differ by the order alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.dft.magnetism.exchange import couplings
from models.dft.magnetism.moments import Magnetism, magnetism_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

# What a campaign may ask for; ferrimagnetic orders count as antiferromagnetic ones.
Magnetic = Literal["auto", "none", "ferromagnetic", "antiferromagnetic"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_ORDERS = 5  # that one calculation tries, the ferromagnetic one among them
MOST_SITES = 20  # of a supercell that is made for an order; a primitive cell may be larger
MOST_ENUMERATED = 10  # moments of a primitive cell whose every splitting is looked at
GRID = 2  # cells along each axis after which an order of a half reciprocal vector repeats
FERROMAGNETIC = "ferromagnetic"
_FRACTIONS = {0.0: "0", 0.5: "½", 1.0: "1", 1.5: "3/2"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A collinear order.

    Attributes:
        name: "ferromagnetic", "antiferromagnetic (½ ½ ½)", with the wave vector in units of the conventional
            reciprocal lattice; (0 0 0) splits the primitive cell's own moments.
        moments: μB, of each site of the primitive cell in each of N x N x N cells, shape (n_sites, N, N, N).
    """

    name: str
    moments: Floats


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a calculation tries.

    Attributes:
        supercell: Lattice vectors in rows, in units of the primitive cell's, shape (3, 3).
        tried: Name and moments (μB) of each order, in the order of `supercell_of`; the most likely first.
        left_out: Orders that are not tried, and why.
    """

    supercell: tuple[tuple[int, int, int], ...] = ()
    tried: tuple[tuple[str, tuple[float, ...]], ...] = ()
    left_out: tuple[str, ...] = field(default=())


def orders_of(
    cell: Structure, *, wanted: Magnetic = "auto", given: Sequence[Order] = (), notes: Iterable[str] = ()
) -> Orders:
    """Choose the orders that a calculation tries.

    Args:
        cell: Primitive, its symmetry exact.
        wanted: "auto", "ferromagnetic" or "antiferromagnetic"; the last is ferromagnetic where no two moments
            neighbour each other.
        given: Orders from elsewhere, of the same cell; they are always tried.
        notes: What there is to say of orders that could not be given.

    Returns:
        The orders, none where the ferromagnetic one is alone in the primitive cell.
    """
    magnetism = magnetism_of(cell)
    ferromagnetic = Order(name=FERROMAGNETIC, moments=_parallel(magnetism))
    others = [] if wanted == FERROMAGNETIC or not magnetism.centres else antiparallel_orders(cell, magnetism)
    kept = [] if wanted == "antiferromagnetic" and others else [ferromagnetic] if magnetism.centres else []
    for order in given:
        if (known := _known(order, [*kept, *others], cell, magnetism)) is None:
            kept.insert(0, order)
        elif known in others:
            others.insert(0, others.pop(others.index(known)))
    chosen, left_out = _fitting(kept, others, len(cell))
    left_out = [*notes, *left_out]
    if not chosen or (len(chosen) == 1 and chosen[0] is ferromagnetic):
        return Orders(left_out=tuple(left_out))
    # The ferromagnetic one last: what is tried first is most often the lowest, and its gap is wanted.
    chosen = [order for order in chosen if order is not ferromagnetic] + [o for o in chosen if o is ferromagnetic]
    lattice = common_lattice([order.moments for order in chosen], cell)
    places = _places(lattice)
    return Orders(
        supercell=tuple((int(a), int(b), int(c)) for a, b, c in lattice),
        tried=tuple((order.name, _on(order.moments, places)) for order in chosen),
        left_out=tuple(left_out),
    )


def supercell_of(cell: Structure, supercell: Sequence[Sequence[int]]) -> Structure:
    """Repeat a primitive cell: of each site all its images, one after the other.

    Args:
        cell: Primitive.
        supercell: Lattice vectors in rows, in units of the primitive cell's.
    """
    from pymatgen.core import Lattice, Structure

    lattice = np.array(supercell)
    places = _places(lattice)
    inverse = np.linalg.inv(lattice)
    coords = [(site.frac_coords + place) @ inverse for site in cell for place in places]
    species = [site.specie.symbol for site in cell for _ in places]
    return Structure(Lattice(lattice @ cell.lattice.matrix), species, coords)


def antiparallel_orders(cell: Structure, magnetism: Magnetism) -> list[Order]:
    """List the antiferromagnetic and ferrimagnetic orders, the one with the strongest antiparallel bonds first.

    Of each half reciprocal vector (one of a star) its best order comes before further ones. Moments that symmetry
    makes equal add up to zero, or are all parallel.

    Args:
        cell: Primitive, its symmetry exact.
        magnetism: Its moments.
    """
    symmetry = _Symmetry(cell, magnetism)
    exchange = couplings(cell, magnetism)
    if not np.abs(exchange).sum():
        return []
    seen, found = {symmetry.canonical(np.ones(symmetry.shape))}, []
    for vector in symmetry.stars():
        phases = _phases(vector)
        for signs in _splittings(symmetry, exchange, vector):
            pattern = signs[:, None, None, None] * phases
            key = symmetry.canonical(pattern)
            if key not in seen:
                seen.add(key)
                found.append((float(_energy(exchange, pattern)), vector, pattern))
    found.sort(key=lambda order: (round(order[0], 6), order[1]))
    best = {vector: n for n, (_, vector, _) in reversed(list(enumerate(found)))}
    found = [order for n, order in enumerate(found) if best[order[1]] == n] + [
        order for n, order in enumerate(found) if best[order[1]] != n
    ]
    moments = [_moments(magnetism, pattern) for _, _, pattern in found]
    names = [symmetry.name(vector, pattern) for _, vector, pattern in found]
    counted = [f"{name} #{names[:n].count(name) + 1}" if name in names[:n] else name for n, name in enumerate(names)]
    return [Order(name=name, moments=m) for name, m in zip(counted, moments, strict=True)]


def common_lattice(patterns: Sequence[Floats], cell: Structure) -> Ints:
    """The smallest lattice on which all patterns repeat, vectors in rows, reduced; shape (3, 3)."""
    from pymatgen.core import Lattice

    basis = _basis(patterns)
    if abs(round(float(np.linalg.det(basis)))) == 1:
        return np.eye(3, dtype=np.int64)  # the primitive cell as it is
    vectors = basis @ cell.lattice.matrix
    reduced = Lattice(vectors).get_niggli_reduced_lattice().matrix  # in the orientation that it had
    found = np.round(reduced @ np.linalg.inv(cell.lattice.matrix)).astype(np.int64)
    for turns in range(3):  # a hexagonal plane lies along the first two
        turned = np.roll(found, turns, axis=0)
        alpha, beta, gamma = Lattice(turned @ cell.lattice.matrix).angles
        if abs(alpha - 90) < 0.1 and abs(beta - 90) < 0.1 and min(abs(gamma - 60), abs(gamma - 120)) < 0.1:
            return turned
    return found


class _Symmetry:
    """What the space group does to signs of the moments' centres, on two cells along each axis.

    Attributes:
        shape: Of a pattern of signs: (n_centres, 2, 2, 2).
        orbits: Centres that symmetry makes equal.
    """

    def __init__(self, cell: Structure, magnetism: Magnetism) -> None:
        import moyopy

        numbers = [int(site.specie.Z) for site in cell]
        found = moyopy.MoyoDataset(
            moyopy.Cell(cell.lattice.matrix.tolist(), cell.frac_coords.tolist(), numbers), symprec=1e-3
        )
        self.rotations = np.array(found.operations.rotations, dtype=int)
        self._to_conventional = np.array(found.std_linear)
        self.shape = (len(magnetism.centres), GRID, GRID, GRID)
        owners = {k: (c, np.array(r)) for c, unit in enumerate(magnetism.centres) for k, r in unit}
        coords = np.array([site.frac_coords for site in cell])
        cells = np.array(list(product(range(GRID), repeat=3)))
        index = np.arange(np.prod(self.shape)).reshape(self.shape)
        images = []
        for rotation, shift in zip(self.rotations, np.array(found.operations.translations), strict=True):
            image = np.empty(self.shape, dtype=int)
            for c, unit in enumerate(magnetism.centres):
                k, r = unit[0]
                moved = (coords[k] + np.array(r) + cells) @ rotation.T + shift
                to = self._site_at(moved[0], coords, numbers, numbers[k])
                owner, offset = owners[to]
                places = np.round(moved - coords[to]).astype(int) - offset
                a, b, d = (places % GRID).T
                image[c][tuple(cells.T)] = index[owner, a, b, d]
            images.append(image.ravel())
        places = list(product(range(GRID), repeat=3))
        moved = [
            np.roll(image.reshape(self.shape), place, axis=(1, 2, 3)).ravel() for image in images for place in places
        ]
        self.images = np.unique(np.array(moved), axis=0)
        first = self.images.reshape(-1, *self.shape)[:, :, 0, 0, 0] // GRID**3
        self.orbits = sorted({tuple(sorted(set(first[:, c].tolist()))) for c in range(self.shape[0])})

    @staticmethod
    def _site_at(place: Floats, coords: Floats, numbers: Sequence[int], number: int) -> int:
        off = place - coords
        off -= np.round(off)
        distance = np.where(np.array(numbers) == number, np.abs(off).max(axis=1), np.inf)
        return int(distance.argmin())

    def canonical(self, pattern: Floats) -> bytes:
        """One name for all patterns that symmetry, or turning all moments round, makes of this one."""
        signs = np.sign(pattern).astype(np.int8).ravel()[self.images]
        both = np.concatenate([signs, -signs])
        return min(row.tobytes() for row in both)

    def stars(self) -> list[tuple[int, int, int]]:
        """Half reciprocal vectors, twice their coordinates, one of each star; those whose supercell is the smallest."""
        stars = sorted({tuple(sorted(self._star(vector))) for vector in product(range(2), repeat=3)})
        return list(min(product(*stars), key=lambda chosen: (len(_span(chosen)), chosen)))

    def _star(self, vector: Sequence[int]) -> set[tuple[int, int, int]]:
        images = (np.array(vector) @ self.rotations) % 2
        return {(int(a), int(b), int(c)) for a, b, c in images}

    def name(self, vector: Sequence[int], pattern: Floats) -> str:
        """An order's kind, antiferromagnetic where moments that symmetry makes equal add up to zero, and its vector."""
        balanced = all(abs(float(pattern[list(orbit)].sum())) < 1e-6 for orbit in self.orbits)
        kind = "antiferromagnetic" if balanced else "ferrimagnetic"
        return f"{kind} ({' '.join(_FRACTIONS.get(x, f'{x:g}') for x in self.conventional(vector))})"

    def conventional(self, vector: Sequence[int]) -> tuple[float, ...]:
        """A half reciprocal vector of a star in units of the conventional cell's, the shortest without signs."""
        shifts = np.array(list(product((-2, 0, 2), repeat=3)))
        members = np.array(sorted(self._star(vector)))
        all_of_them = ((members[:, None] + shifts).reshape(-1, 3) / 2) @ self._to_conventional
        rounded = sorted({tuple(float(x) + 0.0 for x in np.round(row, 3)) for row in all_of_them})
        return min(rounded, key=lambda h: (round(sum(map(abs, h)), 3), sum(x < 0 for x in h), h))


def _span(vectors: Iterable[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    """All sums of half reciprocal vectors."""
    found = {(0, 0, 0)}
    for vector in vectors:
        found |= {((a + vector[0]) % 2, (b + vector[1]) % 2, (c + vector[2]) % 2) for a, b, c in found}
    return found


def _phases(vector: Sequence[int]) -> Floats:
    """The sign of each of 2 x 2 x 2 cells at a half reciprocal vector."""
    cells = np.array(list(product(range(GRID), repeat=3)))
    phases: Floats = np.where((cells @ np.array(vector)) % 2, -1.0, 1.0).reshape(GRID, GRID, GRID)
    return phases


def _splittings(symmetry: _Symmetry, exchange: Floats, vector: Sequence[int]) -> Iterator[Floats]:
    """Signs of the primitive cell's centres, the first one up."""
    n = symmetry.shape[0]
    if n <= MOST_ENUMERATED:
        candidates: Iterable[Floats] = (np.array([1.0, *rest]) for rest in product((1.0, -1.0), repeat=n - 1))
    else:  # the softest modes of the classical energy
        _, modes = np.linalg.eigh(np.einsum("abxyz,xyz->ab", exchange, _phases(vector)))
        candidates = [np.where(mode * np.sign(mode[0] or 1.0) >= 0, 1.0, -1.0) for mode in modes.T]
    for signs in candidates:
        sums = [abs(sum(signs[c] for c in orbit)) for orbit in symmetry.orbits]
        balanced = all(total in (0, len(orbit)) for total, orbit in zip(sums, symmetry.orbits, strict=True))
        if any(vector) or (balanced and abs(signs.sum()) < n):
            yield signs


def _energy(exchange: Floats, pattern: Floats) -> float:
    """Classical energy of a cell, in units of the strongest bond's."""
    return 0.5 * float(np.einsum("a,abxyz,bxyz->", pattern[:, 0, 0, 0], exchange, pattern))


def _parallel(magnetism: Magnetism) -> Floats:
    return np.array(magnetism.moments, dtype=float)[:, None, None, None]


def _moments(magnetism: Magnetism, signs: Floats) -> Floats:
    """Moments of the sites from the signs of their centres."""
    found = np.zeros((len(magnetism.moments), *signs.shape[1:]))
    for c, unit in enumerate(magnetism.centres):
        for k, place in unit:
            found[k] = magnetism.moments[k] * np.roll(signs[c], place, axis=(0, 1, 2))
    return found


def _known(order: Order, others: Sequence[Order], cell: Structure, magnetism: Magnetism) -> Order | None:
    """The first of some orders that symmetry makes this one."""
    signs = _signs(order, magnetism)
    if signs is None:
        return None
    symmetry = _Symmetry(cell, magnetism)
    name = symmetry.canonical(signs)
    return next((o for o in others if (s := _signs(o, magnetism)) is not None and symmetry.canonical(s) == name), None)


def _signs(order: Order, magnetism: Magnetism) -> Floats | None:
    """Signs of the centres, shape (n_centres, 2, 2, 2); None if the order has moments elsewhere, or another period."""
    if not magnetism.centres or GRID % order.moments.shape[1]:
        return None
    grown = np.sign(np.tile(order.moments, (1, *[GRID // order.moments.shape[1]] * 3)))
    signs = np.array(
        [np.roll(grown[k], tuple(-r for r in place), axis=(0, 1, 2)) for (k, place), *_ in magnetism.centres]
    )
    again = _moments(magnetism, signs)
    return signs if np.array_equal(np.sign(again), grown) and signs.all() else None


def _fitting(first: Sequence[Order], others: Sequence[Order], n_sites: int) -> tuple[list[Order], list[str]]:
    """The orders that a calculation has room for, and why others are left out."""
    chosen, too_large, too_many = list(first), [], []
    for order in others:
        if len(chosen) >= MOST_ORDERS:
            too_many.append(order.name)
        elif _index([*chosen, order]) * n_sites > max(MOST_SITES, _index(chosen) * n_sites):
            too_large.append(order.name)
        else:
            chosen.append(order)
    said = []
    if too_large:
        said.append(f"{_several(too_large)}: the common supercell would have more than {MOST_SITES} sites")
    if too_many:
        said.append(f"{_several(too_many)}: at most {MOST_ORDERS} orders are tried")
    return chosen, said


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _index(orders: Sequence[Order]) -> int:
    """How many primitive cells the common supercell of some orders has."""
    return abs(round(float(np.linalg.det(_basis([order.moments for order in orders]))))) if orders else 1


def _basis(patterns: Sequence[Floats]) -> Ints:
    n = int(np.lcm.reduce([pattern.shape[1] for pattern in patterns]))
    grown = [np.tile(p, (1, *[n // p.shape[1]] * 3)) for p in patterns]
    shifts = [
        shift
        for shift in product(range(n), repeat=3)
        if all(np.allclose(np.roll(p, shift, axis=(1, 2, 3)), p, atol=1e-3) for p in grown)
    ]
    return _hermite(np.array([*shifts, *(n * np.eye(3, dtype=int))]))


def _hermite(rows: Ints) -> Ints:
    """A basis, upper triangular, of the lattice that some integer vectors make; shape (3, 3)."""
    left, basis = rows.copy(), []
    for axis in range(3):
        while (alive := np.flatnonzero(left[:, axis])).size > 1:
            pivot = alive[np.abs(left[alive, axis]).argmin()]
            others = alive[alive != pivot]
            left[others] -= np.outer(left[others, axis] // left[pivot, axis], left[pivot])
        pivot = alive[0]
        basis.append(left[pivot] * np.sign(left[pivot, axis]))
        left = np.delete(left, pivot, axis=0)
    return np.array(basis)


def _places(lattice: Ints) -> Ints:
    """The primitive cells of a supercell, the first at the origin; shape (n, 3)."""
    reach = range(int(lattice.clip(max=0).sum(axis=0).min()), int(lattice.clip(min=0).sum(axis=0).max()) + 1)
    cells = np.array(sorted(product(reach, repeat=3), key=lambda r: (sum(map(abs, r)), r)))
    inside = cells @ np.linalg.inv(lattice)
    return cells[((inside > -1e-6) & (inside < 1 - 1e-6)).all(axis=1)]


def _on(moments: Floats, places: Ints) -> tuple[float, ...]:
    n = moments.shape[1]
    a, b, c = (places % n).T
    return tuple(round(float(m), 4) + 0.0 for m in moments[:, a, b, c].ravel())
