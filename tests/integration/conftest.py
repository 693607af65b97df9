"""Real campaigns in real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASSAY = Path(sys.executable).with_name("assay")
SMALL = Path(__file__).with_name("small.yaml")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start `assay` in a folder, in a process group of its own."""
    return subprocess.Popen(
        [str(ASSAY), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run `assay` in a folder and give back what it said."""
    process = start(folder, *arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="session")
def gpaw() -> None:
    """Skip where there is no GPAW."""
    from materials.errors import CodeNotInstalled
    from models.dft.codes import CodeChoice, open_code

    try:
        open_code(CodeChoice(name="gpaw")).version()
    except CodeNotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, gpaw: None) -> Path:
    """A folder in which the small campaign has run undisturbed; tests read it, and leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "said.txt").write_text(run(folder, "run", str(SMALL)))
    return folder
