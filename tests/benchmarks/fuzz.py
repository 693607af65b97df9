"""Damaged and hostile inputs, made by a seeded generator: no traceback, no hang, no memory beyond 2 GiB.

    python -m tests.benchmarks.fuzz [--kind structures] [--count 500] [--seed 0] [--only N]

Each input is made from its kind, the seed and its number alone, so that `--only N` makes one again and shows it. Exit
code 1 if any of them ended in anything but an answer or one sentence of the program's own. Another kind of input is
two functions and a line in KINDS: one that writes an input into a folder, one that gives it to the program and raises
what the program did not foresee.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import json
import multiprocessing
import random
import resource
import signal
import string
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

from materials.errors import AssayError

SECONDS = 30.0  # CPU time that one input may take: of a busy machine nothing is asked
PATIENCE = 600.0  # seconds on the clock, after which a process that says nothing is ended
MEMORY = 2 * 2**30  # bytes
CEILING = 8 * 2**30  # of addresses: what asks for more gets a MemoryError, and the machine stays whole

# What stands where a number, a name or a count should.
HOSTILE = [
    "", "0", "-0", "-1", "1", "2", "1e6", "1e9", "-1e9", "1e300", "1e-300", "1e999", "nan", "inf", "-inf", ".", "?",
    "0,5", "−0.5", "٣", "²", "½", "1_0", "0x10", "99999999999", "9" * 400, "9" * 5000, "1/3", "1/0", "1(2", "(", ")",
    "'", '"', ";", "#", "_", "loop_", "data_", "data_x", "save_", "_cell_length_a", "Vac", "Uue", "X", "D", "OH", "OH1",
    "Wat", "13C", "Na+Cl", "Na,Cl", "x,y,z", "x,y", "-x,-y,z+1/2", "true", "null", "None", "[]", "{}", "[" * 3000,
    "\x00", "\x1b[31m", "\ud7ff", "\u202e", "<script>", "[/i]", "%s", "{0}", "F F F", "T T T", "é" * 100, "../../x",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of input.

    Attributes:
        make: Writes one into a folder, and returns its path.
        use: Gives it to the program; raises what it did not foresee.
    """

    make: Callable[[random.Random, Path], Path]
    use: Callable[[Path], None]


def make_structures(chance: random.Random, folder: Path) -> Path:
    """Write a structure file, or a table of them, with some damage."""
    name, text = chance.choice(sorted(_structures().items()))
    if chance.random() < 0.1:  # another kind of file than its name says
        name = chance.choice(sorted(_structures()))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        text = damaged(chance, text, [*_structures().values()])
    data = text.encode("utf-8", errors="surrogatepass")
    if chance.random() < 0.1:
        at = chance.randrange(len(data) + 1)
        data = data[:at] + chance.randbytes(chance.randrange(1, 40)) + data[at:]
    if chance.random() < 0.05:
        data = gzip.compress(data)[: chance.choice((None, -1, -9, 20))]
        name += ".gz"
    path = folder / name
    path.write_bytes(data)
    return path


def use_structures(path: Path) -> None:
    """Read what is there, and look at it as the first stage of a campaign does."""
    from materials import sanity
    from materials.records import Failure
    from materials.serialization import structure_from_json, structure_to_json
    from materials.sources import files

    for found in files.read(path=path):
        if isinstance(found, Failure):
            f"{found.material_id} {found.error} {found.message}".encode()
            assert "\n" not in found.message, "a message of several lines"
            continue
        json.dumps(found.parents).encode()
        assert 0 <= found.structure.frac_coords.min() <= found.structure.frac_coords.max() < 1, (
            "a site outside the cell"
        )
        assert structure_from_json(structure_to_json(found.structure)) == found.structure, (
            "another crystal in the ledger"
        )
        sanity.check(found.structure, max_sites=200, charge_balance=True)


@cache
def _structures() -> dict[str, str]:
    """Files of each kind, by name."""
    import pandas
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    rutile.add_oxidation_state_by_element({"Ti": 4, "O": -2})
    cells = " ".join(f"{x:.4f}" for x in rutile.lattice.matrix.ravel())
    frame = [f"{s.specie.element} {' '.join(f'{x:.4f}' for x in s.coords)}" for s in rutile]
    magnetic = salt.copy(site_properties={"magmom": [[0, 0, m] for m in (1, -1, 1, -1, 0, 0, 0, 0)]})
    table = pandas.DataFrame({"id": ["a", "b"], "gap": [5.0, 3.0], "crystal": [s.as_dict() for s in (salt, rutile)]})
    head = "\n".join(str(CifWriter(salt)).split("\n")[2:8])
    named = f"data_x\n_symmetry_space_group_name_H-M 'F d -3 m'\n_symmetry_Int_Tables_number 227\n{head}\n"
    columns = "loop_\n" + "\n".join(
        f"_atom_site_{name}" for name in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    )
    return {
        "a.cif": salt.to(fmt="cif") + rutile.to(fmt="cif"),
        "b.cif": str(CifWriter(rutile, symprec=0.01)),
        "c.cif": f"{named}_cell_formula_units_Z 8\n_chemical_formula_sum Si\n{columns}\nSi1 Si4+ .125 .125(1) .125 1\n",
        "d.mcif": str(CifWriter(magnetic, write_magmoms=True)),
        "POSCAR": rutile.to(fmt="poscar"),
        "e.vasp": rutile.to(fmt="poscar").replace("direct", "Selective dynamics\nCartesian").replace(" Ti", " T T F"),
        "f.extxyz": f'6\nLattice="{cells}" Properties=species:S:1:pos:R:3 pbc="T T T"\n' + "\n".join(frame) + "\n",
        "g.json": rutile.to_json(),
        "h.json": json.dumps([s.as_dict() for s in (salt, rutile)]),
        "i.json": str(table.to_json()),
        "j.json": str(table.to_json(orient="split")),
        "k.json": str(table.to_json(orient="index")),
        "l.jsonl": str(table.to_json(orient="records", lines=True)),
        "m.csv": table.to_csv(index=False),
        "n.csv": table.assign(crystal=[s.to(fmt="cif") for s in (salt, rutile)]).to_csv(),
        "o.gen": "2 S\n Na Cl\n 1 1 0 0 0\n 2 2 2.8 2.8 2.8\n 0 0 0\n 5.6 0 0\n 0 5.6 0\n 0 0 5.6\n",
        "p.xsf": "CRYSTAL\nPRIMVEC\n 5.6 0 0\n 0 5.6 0\n 0 0 5.6\nPRIMCOORD\n 2 1\n 11 0 0 0\n 17 2.8 2.8 2.8\n",
    }


def damaged(chance: random.Random, text: str, others: list[str]) -> str:
    """Do one thing to a text that a person, a disk or an enemy could do."""
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    match chance.randrange(12):
        case 0:
            return text[: chance.randrange(len(text) + 1)]
        case 1:
            del lines[at : at + chance.randrange(1, 4)]
        case 2:
            lines[at:at] = lines[at : at + chance.randrange(1, 5)] * chance.choice((1, 1, 2, 50))
        case 3:
            lines.insert(at, chance.choice(HOSTILE))
        case 4:
            other = chance.choice(others).split("\n")
            lines[at:at] = other[chance.randrange(len(other)) :][:20]
        case 5:
            return text + "\n" + chance.choice(others)
        case 6:
            at = chance.randrange(len(text) + 1)
            return text[:at] + chance.choice([*HOSTILE, chance.choice(string.printable)]) + text[at + 1 :]
        case 7:
            return text.replace("\n", chance.choice(("\r\n", "\r", "\n\n", " ", "\x0b")))
        case _:
            words = lines[at].split(" ")
            words[chance.randrange(len(words))] = chance.choice(HOSTILE)
            lines[at] = " ".join(words)
    return "\n".join(lines)


KINDS = {"structures": Kind(make=make_structures, use=use_structures)}


def make(kind: str, seed: int, number: int, folder: Path) -> Path:
    """Write one input; the same one for the same arguments."""
    return KINDS[kind].make(random.Random(f"{kind} {seed} {number}"), folder)


class _TooLong(BaseException):
    """Not an Exception, which a reader of files may catch."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def trouble_with(kind: str, path: Path) -> str:
    """Give an input to the program; say what it should not have done, or nothing."""
    try:
        with _limited(SECONDS):
            KINDS[kind].use(path)
    except AssayError as error:
        return "a message of several lines" if "\n" in str(error) else ""
    except _TooLong:
        return f"more than {SECONDS:g} s of CPU time:\n{traceback.format_exc()}"
    except Exception:  # noqa: BLE001 - this is what is looked for
        return traceback.format_exc()
    return ""


def _work(told: Connection, kind: str, seed: int, numbers: range) -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (CEILING, CEILING))
    for number in numbers:
        told.send((number, None))
        with tempfile.TemporaryDirectory() as folder:
            trouble = trouble_with(kind, make(kind, seed, number, Path(folder)))
        if not trouble and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MEMORY:
            trouble = f"more than {MEMORY / 2**30:g} GiB of memory"
        told.send((number, trouble))
        if trouble:
            return  # the next in a fresh process: memory is counted by its peak


def run(kind: str, seed: int, count: int) -> dict[int, str]:
    """Try so many inputs; return what went wrong, by the input's number."""
    found: dict[int, str] = {}
    start = 0
    while start < count:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (theirs, kind, seed, range(start, count))
        worker = multiprocessing.get_context("spawn").Process(target=_work, args=arguments)
        worker.start()
        theirs.close()
        trouble, number = "", start
        try:
            while number < count and not trouble:
                if not ours.poll(PATIENCE):
                    trouble = f"nothing for {PATIENCE:g} s"
                    break
                number, ended = ours.recv()
                if ended == "":
                    number += 1
                trouble = ended or ""
        except EOFError:
            trouble = "the process died"
        if trouble:
            found[number] = trouble
        start = number + 1
        worker.kill()
        worker.join()
    return found


def main() -> int:
    """Run from the command line."""
    asked = argparse.ArgumentParser(prog="python -m tests.benchmarks.fuzz", description=__doc__.split("\n")[0])
    asked.add_argument("--kind", choices=KINDS, action="append", help="one, or several; all without it")
    asked.add_argument("--count", type=int, default=500, help="inputs of each kind")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", type=int, metavar="N", help="make this one input, show it and what comes of it")
    given = asked.parse_args()
    failed = 0
    for kind in given.kind or KINDS:
        if given.only is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = make(kind, given.seed, given.only, Path(folder))
                print(f"--- {path.name}\n{path.read_bytes()[:20_000].decode(errors='replace')}\n---")
                print(trouble_with(kind, path) or "as it should be")
            continue
        begun = time.monotonic()
        found = run(kind, given.seed, given.count)
        for number, trouble in found.items():
            print(f"{kind} --seed {given.seed} --only {number}: {trouble}", file=sys.stderr)
        print(f"{kind}: {given.count} inputs, {len(found)} with trouble, {time.monotonic() - begun:.0f} s")
        failed += len(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
