"""GPAW behind the contract, without running it: finding it, folders, and how each end is read."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from materials.errors import CodeNotInstalled, DFTError
from models.dft import gpaw
from models.dft.contract import DFTResult, DFTSettings, Limits

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [(0, 0, 0)])
SETTINGS = DFTSettings(
    code="gpaw",
    preset="quick",
    potentials="gpaw-setups-1",
    cutoff_ev=300.0,
    kpoints=(2, 2, 2),
    kpoint_shift=(True, True, True),
    gap_kpoints=(2, 2, 2),
    smearing_ev=0.05,
    convergence_energy_ev=5e-4,
    convergence_density=1e-4,
    max_scf_steps=100,
)


@pytest.fixture
def no_cache():
    gpaw.find_installation.cache_clear()
    yield
    gpaw.find_installation.cache_clear()


def test_a_python_without_gpaw_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_cache: None
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named gpaw' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("ASSAY_GPAW_PYTHON", str(python))
    with pytest.raises(CodeNotInstalled, match=r"deploy/setup.*No module named gpaw"):
        gpaw.Gpaw().version()


def test_a_gpaw_without_setups_is_not_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_cache: None) -> None:
    python = tmp_path / "python"
    python.write_text("""#!/bin/sh\necho '{"version": "26.7.0", "files": 0, "setups": "x"}'\n""")
    python.chmod(0o755)
    monkeypatch.setenv("ASSAY_GPAW_PYTHON", str(python))
    with pytest.raises(CodeNotInstalled, match="no PAW setups"):
        gpaw.Gpaw().potentials()


def test_a_python_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_cache: None) -> None:
    python = tmp_path / "python"
    python.write_text("""#!/bin/sh\necho '{"version": "22.8.0", "files": 90, "setups": "0a1b"}'\n""")
    python.chmod(0o755)
    monkeypatch.setenv("ASSAY_GPAW_PYTHON", str(python))
    code = gpaw.Gpaw()
    assert (code.version(), code.potentials()) == ("22.8.0", "gpaw-setups-0a1b")
    assert code.command(tmp_path, ())[0] == str(python)
    assert code.command(tmp_path, ("mpirun", "-np", "4"))[:3] == ["mpirun", "-np", "4"]


def test_the_input_is_the_primitive_cell(tmp_path: Path) -> None:
    gpaw.Gpaw().write_inputs(tmp_path / "a", SILICON, SETTINGS, Limits(walltime_s=7.0))
    task = json.loads((tmp_path / "a" / "task.json").read_text())
    assert task["numbers"] == [14, 14]
    assert task["walltime_s"] == 7.0
    assert task["settings"]["cutoff_ev"] == 300.0


def test_without_a_result_it_crashed_and_the_log_says_more(tmp_path: Path) -> None:
    (tmp_path / "driver.log").write_text("one\n\ntwo\n")
    result = gpaw.Gpaw().parse(tmp_path)
    assert result.status == "crashed"
    assert result.energy is None
    assert result.message.endswith("one\ntwo")


def test_a_torn_result_is_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"status": "conv')
    with pytest.raises(DFTError, match=r"result\.json: not JSON"):
        gpaw.Gpaw().parse(tmp_path)


@pytest.mark.parametrize(
    ("status", "had", "has", "finished"),
    [
        ("converged", Limits(walltime_s=1), Limits(walltime_s=100), True),
        ("walltime", Limits(walltime_s=1), Limits(walltime_s=1), True),
        ("walltime", Limits(walltime_s=1), Limits(walltime_s=2), False),
        ("out_of_memory", Limits(memory_gib=1), Limits(memory_gib=1, walltime_s=9e9), True),
        ("out_of_memory", Limits(memory_gib=1), Limits(memory_gib=2), False),
    ],
)
def test_more_generous_limits_open_what_they_could_better(
    tmp_path: Path, status: str, had: Limits, has: Limits, finished: bool
) -> None:
    code = gpaw.Gpaw()
    code.write_inputs(tmp_path, SILICON, SETTINGS, had)
    assert not code.finished(tmp_path, had)
    code.give_up(tmp_path, DFTResult(status=status, message="m", wall_time_s=2.0))
    assert code.finished(tmp_path, has) is finished
    assert code.parse(tmp_path).status == status
    assert code.parse(tmp_path).wall_time_s == 2.0


def test_who_holds_the_lock_works_there(tmp_path: Path) -> None:
    code = gpaw.Gpaw()
    assert code.worker(tmp_path) is None
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": os.uname().nodename}))
    assert code.worker(tmp_path) is None  # a file that nobody holds says nothing
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert code.worker(tmp_path) == os.getpid()
        lock.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
        assert code.worker(tmp_path) == 0
    assert code.worker(tmp_path) is None
