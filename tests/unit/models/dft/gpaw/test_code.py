"""GPAW behind the contract, without running it: finding it, folders, and how each end is read."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from materials.errors import CodeNotInstalled
from models.dft.base import DFTResult, DFTSettings, Limits
from models.dft.calculation_record import calculation_from
from models.dft.gpaw import code as gpaw

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


CONVERGED: dict[str, Any] = {
    "status": "converged",
    "energy": -1.0,
    "numbers": [14],
    "cell": [[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]],
    "scaled_positions": [[0, 0, 0]],
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b"null",
        b'"converged"',
        b"\xff\xfe\x00",
        b"\0" * 4096,
        b'{"status": "conv',
        b"[" * 100_000,
        b'{"status": "fine"}',
        b'{"status": ["failed"]}',
        b'{"status": "failed", "message": 5}',
        b'{"status": "failed", "wall_time_s": "long"}',
        json.dumps(CONVERGED | {"energy": "low"}).encode(),
        json.dumps(CONVERGED | {"energy": True}).encode(),
        json.dumps(CONVERGED | {"numbers": [999]}).encode(),
        json.dumps(CONVERGED | {"numbers": [14, 14]}).encode(),
        json.dumps(CONVERGED | {"cell": [[1, 2], [3, 4]]}).encode(),
        json.dumps(CONVERGED | {"cell": 5}).encode(),
        json.dumps(CONVERGED | {"scaled_positions": [["x", 0, 0]]}).encode(),
        json.dumps(CONVERGED | {"properties": [1]}).encode(),
        json.dumps(CONVERGED | {"band_gap": {}}).encode(),
        json.dumps(CONVERGED | {"n_steps": None}).encode(),
    ],
)
def test_what_is_no_result_counts_as_none(tmp_path: Path, content: bytes) -> None:
    """A full disk, a power failure or a hand: what cannot be read is computed again, and harms nobody."""
    code = gpaw.Gpaw()
    code.write_inputs(tmp_path, SILICON, SETTINGS, Limits())
    (tmp_path / "result.json").write_bytes(content)
    assert not code.finished(tmp_path, Limits())
    result = code.parse(tmp_path)
    assert result.status == "crashed"
    assert f"{tmp_path / 'result.json'}: no result" in result.message


@pytest.mark.parametrize(
    "odd",
    [
        {"n_steps": 10**30},
        {"n_steps": -1},
        {"wall_time_s": float("nan")},
        {"band_gap": float("nan")},
        {"band_gap": -5.0},
        {"max_force": float("inf")},
        {"cell": [[float("nan"), 0, 0], [0, 4, 0], [0, 0, 4]]},
        {"cell": [[0, 0, 0], [0, 0, 0], [0, 0, 0]]},
    ],
)
def test_a_number_that_none_can_be_makes_it_no_result(tmp_path: Path, odd: dict[str, object]) -> None:
    code = gpaw.Gpaw()
    code.write_inputs(tmp_path, SILICON, SETTINGS, Limits())
    (tmp_path / "result.json").write_text(json.dumps(CONVERGED | odd))
    assert code.parse(tmp_path).status == "crashed"


def test_half_a_letter_in_a_message_is_replaced(tmp_path: Path) -> None:
    code = gpaw.Gpaw()
    code.write_inputs(tmp_path, SILICON, SETTINGS, Limits())
    (tmp_path / "result.json").write_text(json.dumps(CONVERGED | {"message": "a\ud800b"}))
    assert code.parse(tmp_path).message == "a?b"


@pytest.mark.parametrize("energy", [float("nan"), float("inf"), float("-inf")])
def test_an_energy_that_is_no_number_is_a_failure(tmp_path: Path, energy: float | None) -> None:
    """The code would say so again."""
    code = gpaw.Gpaw()
    code.write_inputs(tmp_path, SILICON, SETTINGS, Limits())
    (tmp_path / "result.json").write_text(json.dumps(CONVERGED | {"energy": energy}))
    assert code.finished(tmp_path, Limits())
    result = code.parse(tmp_path)
    assert (result.status, result.energy) == ("failed", None)
    assert "no finite energy" in result.message


@pytest.mark.parametrize("left_out", ["energy", "cell", "both"])
def test_a_result_that_converged_to_nothing_is_a_failure(tmp_path: Path, left_out: str) -> None:
    code = gpaw.Gpaw()
    code.write_inputs(tmp_path, SILICON, SETTINGS, Limits())
    lacking = ("energy", "cell") if left_out == "both" else (left_out,)
    (tmp_path / "result.json").write_text(json.dumps({k: v for k, v in CONVERGED.items() if k not in lacking}))
    calculation = calculation_from(code.parse(tmp_path), "Si", "gpaw-1", SETTINGS)
    assert (calculation.status, calculation.energy) == ("failed", None)
    assert "without an energy or a crystal" in calculation.message


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"\xff", b'{"walltime_s": "x"}', b"[" * 100_000])
def test_a_task_or_a_lock_that_says_nothing_ends_nothing(tmp_path: Path, content: bytes) -> None:
    code = gpaw.Gpaw()
    (tmp_path / "result.json").write_text('{"status": "walltime", "message": ""}')
    (tmp_path / "task.json").write_bytes(content)
    (tmp_path / "lock").write_bytes(content)
    assert not code.finished(tmp_path, Limits())
    with open(tmp_path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert code.worker(tmp_path) == 0  # somebody works there, and nobody knows who


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
