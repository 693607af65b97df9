"""Damaged and hostile inputs, made by a seeded generator: no traceback, no hang, no memory beyond 2 GiB.

    python -m tests.benchmarks.fuzz [--kind KIND] [--count 500] [--seed 0] [--only N]

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
import re
import resource
import signal
import sqlite3
import string
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
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


CONFIGS = Path(__file__).parents[2] / "configs"
FILTERS = [
    "energy_above_hull < 0.05 and band_gap > 1", "has Li and not has Cd and status = validated", "meets_targets",
    "elements in (Li, Mg, P, As)", "( band_gap is null or score >= 0.5 ) and n_sites in (1, 2, 3)",
    "formula = 'NaCl' and rank != 3", "not ( not ( pareto_front ) )",
]  # fmt: skip
ORDERS = ["score", "-band_gap", "energy_above_hull desc", "rank asc, score desc"]
COLUMNS = ["all", "formula,band_gap", "rank, formula, score", ""]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of input.

    Attributes:
        make: Writes one into a folder, and returns its path.
        use: Gives it to the program; raises what it did not foresee.
        lines: Most that an error may have: one for each wrong key of a file, a filter and its caret below it.
    """

    make: Callable[[random.Random, Path], Path]
    use: Callable[[Path], None]
    lines: int = 1


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
    from materials.crystals import validation
    from materials.crystals.serialization import structure_from_json, structure_to_json
    from materials.records import Failure
    from materials.sources.files import source as files

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
        validation.check(found.structure, max_sites=200, charge_balance=True)


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


def make_campaign(chance: random.Random, folder: Path) -> Path:
    """Write a campaign file with some damage."""
    return _damaged_yaml(
        chance, folder / "campaign.yaml", [*CONFIGS.glob("*.yaml"), *Path(__file__).parent.glob("*.yaml")]
    )


def use_campaign(path: Path) -> None:
    """Load it as every command does, and name what it is."""
    from flows.config.load import load_campaign

    json.dumps(load_campaign(path).identity()).encode()


def make_cluster(chance: random.Random, folder: Path) -> Path:
    """Write a cluster file with some damage."""
    return _damaged_yaml(chance, folder / "cluster.yaml", [*(CONFIGS / "clusters").glob("*.yaml")])


def use_cluster(path: Path) -> None:
    """Load it."""
    from flows.config.load import load_cluster

    load_cluster(path).model_dump_json()


def _damaged_yaml(chance: random.Random, path: Path, files: list[Path]) -> Path:
    texts = [file.read_text(encoding="utf-8") for file in sorted(files)]
    text = chance.choice(texts)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        text = damaged(chance, text, texts)
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    return path


def make_filter(chance: random.Random, folder: Path) -> Path:
    """Write the arguments of `assay table`: a filter, an order, columns."""
    words = [word for text in FILTERS for word in text.split(" ")]
    told = []
    for texts in (FILTERS, ORDERS, COLUMNS):
        text = chance.choice(texts)
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            parts = text.split(" ")
            parts.insert(chance.randrange(len(parts) + 1), chance.choice(chance.choice((words, HOSTILE))))
            text = " ".join(parts) if chance.random() < 0.8 else damaged(chance, text, FILTERS)
        told.append(text * chance.choice((1, 1, 1, 1, 30)))
    path = folder / "filter.json"
    path.write_text(json.dumps(told))
    return path


def use_filter(path: Path) -> None:
    """Ask a small ledger."""
    from flows.report import table as tables
    from materials.store.ledger import Ledger

    where, sort, columns = json.loads(path.read_text())
    file = path.with_name("assay.db")
    file.write_bytes(_ledger())
    with Ledger.open(f"sqlite:///{file}", must_exist=True) as ledger:
        found = tables.query(ledger, None, where=where, sort=sort, limit=20, columns=columns)
    for write in (tables.as_text, tables.as_csv, tables.as_json):
        write(found)


def make_replay_table(chance: random.Random, folder: Path) -> Path:
    """Write a table of structures and answers with some damage."""
    import pandas

    structures = [text for name, text in sorted(_structures().items()) if name.endswith((".cif", "POSCAR", "g.json"))]
    rows = [
        {
            "name": chance.choice(["a", "b", *HOSTILE]),
            "structure": chance.choice(structures),
            "band_gap": chance.choice([1.5, 0.0, 3, *HOSTILE]),
            "decomposition_energy_per_atom": chance.choice([-0.1, 0.0, 0.2, *HOSTILE]),
            "level_of_theory": chance.choice(["PBE", "PBE", "PBE+U/MP2020", *HOSTILE]),
        }
        for _ in range(chance.randrange(1, 6))
    ]
    table = pandas.DataFrame(rows)
    if chance.random() < 0.2:
        table = table.drop(columns=chance.choice(list(table.columns)))
    if chance.random() < 0.5:
        path, text = folder / "table.csv", table.to_csv(index=False)
    else:
        path, text = folder / "table.jsonl", str(table.to_json(orient="records", lines=True))
    for _ in range(chance.choice((0, 0, 1, 2))):
        text = damaged(chance, text, structures)
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    return path


def use_replay_table(path: Path) -> None:
    """Read it as a replay does, before anything is screened."""
    from flows.replay.labelled_structures import open_rows

    url = f"sqlite:///{path.with_name('assay.db')}"
    with open_rows(str(path), url, ["band_gap", "decomposition_energy_per_atom"]) as (_, labelled):
        assert all(len(values) == len(labelled.candidates) for values in labelled.answers.values())


def make_ledger(chance: random.Random, folder: Path) -> Path:
    """Write a ledger that a disk or a person has damaged."""
    path, data = folder / "assay.db", _ledger()
    if chance.random() < 0.4:
        for _ in range(chance.choice((1, 3, 30))):
            at = chance.randrange(len(data))
            data = data[:at] + chance.randbytes(chance.choice((1, 8, 200))) + data[at + 1 :]
        if chance.random() < 0.3:
            data = data[: chance.randrange(len(data))]
        path.write_bytes(data)
        return path
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as connection, connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        for _ in range(chance.choice((1, 1, 2, 5))):
            table = chance.choice(tables)
            columns = {row[1]: row[2] for row in connection.execute(f"pragma table_info({table})")}
            column = chance.choice(sorted(columns))
            # PostgreSQL would take no text as a number. What is JSON of another kind, somebody has written on purpose.
            texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
            if "JSON" in columns[column]:
                texts = ["", "[", "{", "nul", "[" * 3000, "\x00"]
            numbers = [None, 1e308, -1e308, 2**62, -1, 0, 0.5]
            value = chance.choice(texts if re.search("CHAR|TEXT|JSON", columns[column]) else numbers)
            with suppress(sqlite3.Error):  # a constraint
                connection.execute(f"update {table} set {column} = ?", [value])
    return path


def use_ledger(path: Path) -> None:
    """Ask it what `assay status`, `assay table` and `assay show` ask."""
    from flows.commands import status
    from flows.report import table as tables
    from materials.store.ledger import Ledger

    with Ledger.open(f"sqlite:///{path}", must_exist=True) as ledger:
        status.status(ledger, None, "table")
        status.status(ledger, None, "json")
        found = tables.query(ledger, None, where=None, sort=None, limit=20, columns="all")
        for write in (tables.as_text, tables.as_csv, tables.as_json):
            write(found)
        ledger.explain("m1")


@cache
def _ledger() -> bytes:
    """A small ledger, as a file's content."""
    from materials.store.ledger import Ledger
    from tests.unit.materials import made_records as made

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "assay.db"
        with Ledger.open(f"sqlite:///{file}") as ledger:
            campaign_id = ledger.add_campaign("small", {"name": "small"})
            ledger.add_candidates(campaign_id, [made.candidate("m1"), made.candidate("m2", parents=("[/i] <b>",))])
            ledger.add_calculations([made.calculation("m1"), made.calculation("m2")])
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
            connection.execute("pragma journal_mode=delete")
        return file.read_bytes()


KINDS = {
    "structures": Kind(make=make_structures, use=use_structures),
    "campaigns": Kind(make=make_campaign, use=use_campaign, lines=5),
    "clusters": Kind(make=make_cluster, use=use_cluster, lines=5),
    "filters": Kind(make=make_filter, use=use_filter, lines=3),
    "replay tables": Kind(make=make_replay_table, use=use_replay_table),
    "ledgers": Kind(make=make_ledger, use=use_ledger),
}


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
        return f"too long a message: {error}" if str(error).count("\n") >= KINDS[kind].lines else ""
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
