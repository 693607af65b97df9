"""The README's commands, as they stand there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ASSAY, SMALL

README = Path(__file__).parents[2] / "README.md"

pytestmark = [pytest.mark.dft, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's configs, in which the quickstart is a smaller campaign whose calculations are known."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(README.parent / "configs", folder / "configs")
    small = SMALL.read_text().replace("name: small", "name: quickstart")
    (folder / "configs" / "quickstart.yaml").write_text(small)
    shutil.copy(finished / "assay.db", folder)
    return folder


def commands() -> list[str]:
    section = README.read_text().split("\n## Use\n")[1].split("\n## ")[0]
    return re.findall(r"^    (assay .+?)\s*$", section, re.MULTILINE)


def test_there_are_commands() -> None:
    assert {command.split()[1] for command in commands()} == {
        "run",
        "table",
        "show",
        "export",
        "status",
        "doctor",
        "schema",
    }


@pytest.mark.parametrize("command", commands())
def test_a_command_runs_as_it_stands(folder: Path, command: str) -> None:
    words = shlex.split(command)
    done = subprocess.run(
        [str(ASSAY), *words[1:]], cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_the_python_of_the_readme_runs(folder: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", f"{snippet}\nprint(len(rows), list(rows.columns)[:3])"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_readme_names_is_there() -> None:
    text = README.read_text()
    for path in re.findall(r"`((?:configs|deploy|tests)/[\w./-]+)`", text):
        assert (README.parent / path).exists(), path
    for path in re.findall(r"\]\((\.github/[\w./-]+)\)", text):
        assert (README.parent / path).exists(), path
