"""What comes from outside is data: whatever a file says, nothing of it is unpickled, imported or evaluated.

Each file here tries to make a canary; a reader either cannot use the file and says so, or reads it as plain data.
"""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows.config.load import load_campaign, load_cluster
from materials.errors import AssayError, CampaignError, InputError, PotentialNotInstalled
from materials.records import Candidate, Failure
from materials.sources.databases import snapshot
from materials.sources.files import source as files
from materials.sources.files.parsing import attempt
from models.potentials.registry import load_potential

LATTICE = {"matrix": [[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]]}


class Bomb:
    """Pickled, it is an order to whoever unpickles it."""

    def __init__(self, order: str) -> None:
        self.order = order

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        import os

        return os.system, (self.order,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[str]:
    """The command that makes the canary; after the test there is none."""
    made = tmp_path / "canary"
    yield f"touch {made}"
    assert not made.exists(), "what stood in a file was run"


def test_the_bomb_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(f"touch {tmp_path / 'canary'}")))
    assert (tmp_path / "canary").exists()


def crystal(**more: Any) -> dict[str, Any]:
    site = {"species": [{"element": "Cu", "occu": 1}], "abc": [0, 0, 0]}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": LATTICE, "sites": [site], **more}


def monty(order: str) -> dict[str, Any]:
    return {"@module": "os", "@class": "system", "@callable": "system", "command": order, "data": [order]}


def a_structure_file(name: str, order: str) -> bytes:
    """A file of each kind that is read, made by somebody who means ill."""
    bomb = pickle.dumps(Bomb(order))
    evaluated = f"__import__('os').system('{order}')"
    if name.startswith("pickle"):
        return bomb
    if name.startswith("zipped pickle."):
        return gzip.compress(bomb)
    cif = f"""data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {evaluated}
loop_
 _symmetry_equiv_pos_as_xyz
 'x, y, {evaluated}'
loop_
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 Cu 0 0 "{evaluated}"
"""
    # What pymatgen evaluated until 2024, CVE-2024-23346.
    transformation = f"_space_group_magn.transform_BNS_Pp_abc 'a,b,[d for d in [{evaluated}]];0,0,0'\n"
    magnetic = cif.replace("data_x\n", "data_x\n_space_group_magn.number_BNS 62.448\n" + transformation)
    magnetic = magnetic.replace(f"_cell_angle_gamma {evaluated}", "_cell_angle_gamma 90")
    extended = f'1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T" Properties=species:S:1:pos:R:3 x="{evaluated}" _JSON {{}}\n'
    contents: dict[str, Any] = {
        "evaluated.cif": cif,
        "magnetic.mcif": magnetic,
        "evaluated.xyz": extended + f"Cu 0 0 {evaluated}\n",
        "evaluated.poscar": f"Cu\n{evaluated}\n4 0 0\n0 4 0\n0 0 4\nCu\n1\nDirect\n0 0 0\n",
        "evaluated.gen": f"1 F\nCu\n1 1 0 0 {evaluated}\n0 0 0\n4 0 0\n0 4 0\n0 0 4\n",
        "evaluated.xsf": f"CRYSTAL\nPRIMVEC\n4 0 0\n0 4 0\n0 0 {evaluated}\nPRIMCOORD\n1 1\n29 0 0 0\n",
        "class.json": json.dumps(monty(order)),
        "structure.json": json.dumps({**crystal(), **monty(order), "lattice": LATTICE}),
        "properties.json": json.dumps(crystal(properties=monty(order), charge=monty(order))),
        "site.json": json.dumps(crystal(sites=[{"species": [monty(order)], "abc": [0, 0, 0], "properties": {}}])),
        "element.json": json.dumps(crystal(sites=[{"species": [{"element": evaluated}], "abc": [0, 0, 0]}])),
        "deep.json": "[" * 100_000,
        "list.json": json.dumps([monty(order), crystal()]),
        "expression.csv": f'id,structure\n1,"{evaluated}"\n2,"=cmd|\' /C {order}\'!A0"\n',
        "lines.jsonl": json.dumps({"id": 1, "structure": monty(order)}) + "\n",
        "script.py": f"import os\nos.system({order!r})\n",
    }
    text: str = contents[name]
    return text.encode()


NAMES = [
    *(f"pickle{suffix}" for suffix in (*files.STRUCTURE_SUFFIXES, ".csv", ".jsonl", ".parquet", ".traj", ".npy", "")),
    *(f"zipped pickle{suffix}" for suffix in (".json", ".cif.gz", ".csv.gz", ".parquet")),
    "evaluated.cif",
    "magnetic.mcif",
    "evaluated.xyz",
    "evaluated.poscar",
    "evaluated.gen",
    "evaluated.xsf",
    "class.json",
    "structure.json",
    "properties.json",
    "site.json",
    "element.json",
    "deep.json",
    "list.json",
    "expression.csv",
    "lines.jsonl",
    "script.py",
]
READABLE = ("structure.json", "properties.json", "list.json")  # crystals still, once what else they say is let be


@pytest.mark.parametrize("name", NAMES)
def test_a_structure_file_is_only_read(name: str, tmp_path: Path, canary: str) -> None:
    file = tmp_path / name
    file.write_bytes(a_structure_file(name, canary))
    try:
        found = list(files.read(path=file))
    except InputError:
        return
    assert found
    crystals = [item for item in found if isinstance(item, Candidate)]
    assert len(crystals) == (name in READABLE)
    assert all(item.formula == "Cu" and not item.structure.site_properties for item in crystals)
    assert all(item.message for item in found if isinstance(item, Failure))


def test_a_folder_leaves_scripts_and_pickles_where_they_are(tmp_path: Path, canary: str) -> None:
    for name in ("script.py", "pickle.traj", "pickle.npy", "structure.json"):
        (tmp_path / name).write_bytes(a_structure_file(name, canary))
    (tmp_path / "pickle.pckl").write_bytes(pickle.dumps(Bomb(canary)))
    assert [item.parents for item in files.read(path=tmp_path) if isinstance(item, Candidate)] == [
        (f"{tmp_path.name}/structure.json",)
    ]


def test_a_parquet_table_unpickles_nothing(tmp_path: Path, canary: str) -> None:
    """Arrow keeps metadata, of pandas' and of types that Python made up: both are words here."""
    import pyarrow
    import pyarrow.parquet

    bomb = base64.b64encode(pickle.dumps(Bomb(canary)))
    field = pyarrow.field(
        "structure",
        pyarrow.binary(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb},
    )
    schema = pyarrow.schema([field], metadata={b"pandas": json.dumps(monty(canary)).encode()})
    table = pyarrow.Table.from_arrays([pyarrow.array([pickle.dumps(Bomb(canary))], pyarrow.binary())], schema=schema)
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    try:
        found = list(files.read(path=tmp_path / "table.parquet"))
    except InputError:
        return
    assert all(isinstance(item, Failure) for item in found)


@pytest.mark.parametrize("content", [crystal(properties={"x": 1}), {"structure": crystal()}])
def test_json_from_a_server_is_read_the_same_way(content: dict[str, Any], canary: str) -> None:
    content = json.loads(json.dumps(content))
    content.update({"@module": "os", "@class": "system", "command": canary})
    structure = attempt(content)
    assert getattr(structure, "reduced_formula", None) == "Cu"


@pytest.mark.parametrize(
    "change",
    [
        lambda content, order: pickle.dumps(Bomb(order)),
        lambda content, order: gzip.compress(pickle.dumps(Bomb(order))),
        lambda content, order: gzip.compress(json.dumps(monty(order)).encode()),
        lambda content, order: gzip.compress(json.dumps({**content, "structures": [monty(order)]}).encode()),
        lambda content, order: gzip.compress(json.dumps({**content, "query": 1, "failures": [monty(order)]}).encode()),
    ],
    ids=["pickle", "zipped pickle", "class", "structure", "failure"],
)
def test_a_snapshot_is_only_read(change: Callable[[Any, str], bytes], tmp_path: Path, canary: str) -> None:
    sound = snapshot.Snapshot(source="optimade", database_version="1", query={}, structures=())
    path = snapshot.save(sound, tmp_path)
    path.write_bytes(change(json.loads(gzip.decompress(path.read_bytes())), canary))
    with pytest.raises(InputError):
        snapshot.load(path)


@pytest.mark.parametrize("load", [load_campaign, load_cluster])
@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system"]
)
def test_yaml_makes_no_objects(load: Callable[[Path], Any], tag: str, tmp_path: Path, canary: str) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(f"name: {tag} [{canary!r}]\nsources: {tag} [{canary!r}]\n")
    with pytest.raises(CampaignError):
        load(file)


def test_yaml_with_a_pickle_in_it(tmp_path: Path, canary: str) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(yaml.dump({"name": Bomb(canary)}))
    with pytest.raises(CampaignError, match="not valid YAML"):
        load_campaign(file)


def test_a_chgnet_checkpoint_is_weights_alone(tmp_path: Path, canary: str) -> None:
    file = tmp_path / "tuned.pth.tar"
    torch.save({"model": {"state_dict": {}, "model_args": Bomb(canary)}}, file)
    with pytest.raises(PotentialNotInstalled, match="is not opened"):
        load_potential("chgnet", model=str(file), level_of_theory="PBE")
    file.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(PotentialNotInstalled, match="is not opened"):
        load_potential("chgnet", model=str(file), level_of_theory="PBE")


@pytest.mark.parametrize("where", ["model.json", "model.pt", "pickle", "state.pt"])
def test_a_matgl_folder_names_no_class_but_matgls(where: str, tmp_path: Path, canary: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    foreign = {"@module": "subprocess", "@class": "Popen", "init_args": {"args": canary, "shell": True}}
    ours = {"@module": "matgl.apps._pes", "@class": "Potential", "element_types": ["Cu"], "@model_version": 0}
    (folder / "model.json").write_text(json.dumps({**ours, **foreign} if where == "model.json" else ours))
    arguments: Any = {"model": foreign} if where == "model.pt" else {}
    torch.save(Bomb(canary) if where == "pickle" else arguments, folder / "model.pt")
    torch.save({"x": Bomb(canary)} if where == "state.pt" else {}, folder / "state.pt")
    with pytest.raises(PotentialNotInstalled, match="not matgl's" if "model." in where else "cannot load"):
        load_potential("matgl", model=str(folder), level_of_theory="PBE")


def test_a_working_folder_shadows_nothing(tmp_path: Path, canary: str) -> None:
    """A campaign is started in the folder of whoever sent its files: modules that lie there are not imported."""
    for name in ("models", "materials", "flows", "sitecustomize", "ase", "json", "torch"):
        (tmp_path / f"{name}.py").write_text(f"import os\nos.system({canary!r})\n")
    (tmp_path / "campaign.yaml").write_text("name: x\nsources: [{kind: files, path: missing.cif}]\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("assay")), "run", "campaign.yaml", "--no-dft"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "missing.cif" in done.stderr


def test_what_went_wrong_is_one_of_our_errors() -> None:
    assert issubclass(PotentialNotInstalled, AssayError)
    assert issubclass(CampaignError, InputError)
