"""Tables as users of pandas write them: a column of structures as dictionaries or text, in every orientation."""

import json
import pickle
from pathlib import Path

import pandas
import pytest
from pymatgen.core import Lattice, Structure

from materials.records import Candidate, Failure
from materials.sources.files.source import read
from materials.sources.files.tables import read_table

CRYSTALS = [
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for cation, a in (("Na", 5.64), ("K", 6.29))
]
FORMS = {"dict": Structure.as_dict, "json": Structure.to_json, "cif": lambda s: s.to(fmt="cif")}


def table(form: str) -> pandas.DataFrame:
    return pandas.DataFrame({"crystal": [FORMS[form](s) for s in CRYSTALS], "gap": [5.0, 5.1], "mp_id": ["a", "b"]})


def check(path: Path, ids: tuple[str, str] = ("a", "b")) -> None:
    found = list(read(path=path))
    assert all(isinstance(record, Candidate) for record in found), found
    assert [r.formula for r in found if isinstance(r, Candidate)] == ["NaCl", "KCl"]
    assert [r.parents[0] for r in found if isinstance(r, Candidate)] == [f"{path.name}#{name}" for name in ids]


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table", "values"])
@pytest.mark.parametrize("form", FORMS)
def test_to_json_in_each_orientation(tmp_path: Path, orient: str, form: str) -> None:
    path = tmp_path / "t.json"
    table(form).to_json(path, orient=orient)
    check(path, ("1", "2") if orient == "values" else ("a", "b"))
    if orient != "values":
        assert list(read_table(path)["gap"]) == [5.0, 5.1]


@pytest.mark.parametrize("form", FORMS)
def test_json_lines_under_the_name_of_json(tmp_path: Path, form: str) -> None:
    path = tmp_path / "t.json"
    table(form).to_json(path, orient="records", lines=True)
    check(path)


@pytest.mark.parametrize("orient", ["columns", "index", "split"])
def test_the_index_names_the_rows(tmp_path: Path, orient: str) -> None:
    path = tmp_path / "t.json"
    table("dict").set_index("mp_id").to_json(path, orient=orient)
    check(path)


def test_a_column_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table("dict").set_index("mp_id")["crystal"].to_json(path)
    check(path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_dictionary_as_python_prints_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table("dict").to_csv(path, index=False)
    assert "'" in str(pandas.read_csv(path)["crystal"][0])
    check(path)


def test_dictionaries_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    held = table("dict")
    for content in held["crystal"]:  # Parquet has no mapping without a key
        content["properties"] = None
        for site in content["sites"]:
            site["properties"] = {"magmom": 1.0}
    held.to_parquet(path)
    check(path)


def test_a_column_of_a_usual_name_that_holds_other_things(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table("cif").assign(structure="rocksalt").to_csv(path, index=False)
    check(path)


def only_failure(path: Path) -> Failure:
    (found,) = read(path=path)
    assert isinstance(found, Failure), found
    return found


@pytest.mark.parametrize("name", ["t.pkl", "t.pickle", "t.json", "x.cif"])
def test_a_pickle_is_refused_with_the_way_to_write_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(pandas.DataFrame({"structure": CRYSTALS})))
    found = only_failure(path)
    assert "pickle" in found.message
    assert "to_json()" in found.message


def test_pickles_and_printed_structures_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    cells = [pickle.dumps(CRYSTALS[0]), b"\x00\x01", FORMS["cif"](CRYSTALS[1]).encode()]
    pandas.DataFrame({"structure": cells}).to_parquet(path)
    first, second, third = read(path=path)
    assert isinstance(first, Failure)
    assert "to_json()" in first.message
    assert isinstance(second, Failure)
    assert isinstance(third, Candidate)
    pandas.DataFrame({"structure": CRYSTALS}).to_csv(tmp_path / "t.csv")
    assert all("to_json()" in r.message for r in read(path=tmp_path / "t.csv") if isinstance(r, Failure))


@pytest.mark.parametrize(
    "content",
    [{}, [], 5, "text", [[]], [{}], {"a": {}}, {"a": {"b": {"c": 1}}}, {"columns": [1, 1], "data": [[1, 2]]},
     {"columns": 5, "data": "x"}, {"schema": {}, "data": 3}, [None], [1, {}], {"structure": {"0": None}},
     {"lattice": {}, "sites": 3}, {"lattice": None, "sites": [None]}, [{"structure": {"lattice": 1, "sites": 1}}]],
)  # fmt: skip
def test_json_that_is_none_of_these_is_a_failure(tmp_path: Path, content: object) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    assert all(isinstance(record, Failure) for record in read(path=path))


def disordered() -> Structure:
    structure = CRYSTALS[0].copy()
    structure.replace_species({"Na": {"Na": 0.5, "K": 0.5}})
    return structure


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table", "values"])
def test_disordered_ones_before_all_others_hide_no_row(tmp_path: Path, orient: str) -> None:
    rows = [disordered()] * 3 + CRYSTALS
    table = pandas.DataFrame({"name": list("abcde"), "entry": [row.as_dict() for row in rows]})
    table.to_json(tmp_path / "t.json", orient=orient)
    found = list(read(path=tmp_path / "t.json"))
    assert [r.error if isinstance(r, Failure) else r.formula for r in found] == ["Disordered"] * 3 + ["NaCl", "KCl"]


def test_disordered_ones_first_in_a_csv(tmp_path: Path) -> None:
    rows = [disordered()] * 3 + CRYSTALS
    pandas.DataFrame({"entry": [row.to_json() for row in rows]}).to_csv(tmp_path / "t.csv")
    found = list(read(path=tmp_path / "t.csv"))
    assert [r.error if isinstance(r, Failure) else r.formula for r in found] == ["Disordered"] * 3 + ["NaCl", "KCl"]


def test_a_list_of_crystals_with_a_row_among_them(tmp_path: Path) -> None:
    content = [CRYSTALS[0].as_dict(), {"structure": None, "id": 3}, CRYSTALS[1].as_dict()]
    (tmp_path / "t.json").write_text(json.dumps(content))
    found = list(read(path=tmp_path / "t.json"))
    assert [isinstance(record, Candidate) for record in found] == [True, False, True]


@pytest.mark.parametrize("torn", ['{"id": "2", "struc', '{"id": "2", "structure": {"@mod', "[[[", "null"])
def test_a_torn_line_is_one_failure(tmp_path: Path, torn: str) -> None:
    one, other = (json.dumps({"id": name, "structure": s.as_dict()}) for name, s in zip("13", CRYSTALS, strict=True))
    (tmp_path / "t.jsonl").write_text(f"{one}\n{torn}\n{other}\n")
    first, failure, last = read(path=tmp_path / "t.jsonl")
    assert isinstance(first, Candidate)
    assert isinstance(last, Candidate)
    assert [first.parents, last.parents] == [("t.jsonl#1",), ("t.jsonl#3",)]
    assert isinstance(failure, Failure)
    assert failure.material_id == "t.jsonl#2"


def test_lines_of_bare_structures(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(s.as_dict()) + "\n" for s in CRYSTALS))
    check(tmp_path / "t.jsonl", ("1", "2"))
