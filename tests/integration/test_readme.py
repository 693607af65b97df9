"""The READMEs: their commands, Python and campaign run as they stand there, and what they name is there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.config.load import load_campaign
from tests.integration.conftest import ASSAY, SMALL

ROOMS = ("flows", "materials", "models", "configs", "deploy", "tests")
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
COMMANDS = ROOT / "flows" / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))]
)

pytestmark = [pytest.mark.dft, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's configs, in which the quickstart is a smaller campaign whose calculations are known."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    small = SMALL.read_text().replace("name: small", "name: quickstart")
    (folder / "configs" / "quickstart.yaml").write_text(small)
    shutil.copy(finished / "assay.db", folder)
    return folder


def commands() -> list[str]:
    section = COMMANDS.read_text().split("\n## Commands\n")[1].split("\n## ")[0]
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


PYTHON = [
    pytest.param(snippet, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, snippet in enumerate(re.findall(r"```python\n(.+?)```", page.read_text(), re.DOTALL))
]


def test_there_is_python_of_each_public_name() -> None:
    text = "\n".join(str(case.values[0]) for case in PYTHON)
    for name in ("from flows import Campaign", "from materials import Ledger", "from models import Potential"):
        assert name in text


@pytest.mark.parametrize("snippet", PYTHON)
def test_the_python_of_a_page_runs(folder: Path, snippet: str) -> None:
    table = "\nassert 'material_id' in rows" if "rows = " in snippet else ""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet + table],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_campaign_of_the_readme_is_the_quickstart_shortened(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.+?)```", README.read_text(), re.DOTALL)
    (tmp_path / "campaign.yaml").write_text(text)
    shown, whole = load_campaign(tmp_path / "campaign.yaml"), load_campaign(ROOT / "configs" / "quickstart.yaml")
    assert shown.sources == whole.sources
    assert shown.targets == whole.targets
    assert (shown.dft.budget, shown.learning.batch, shown.learning.cost) == (12, 3, whole.learning.cost)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:configs|deploy|tests|flows|models|materials)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).exists(), path
    for path, anchor in re.findall(r"\]\((?!https?:|#)([\w./-]+)(?:#([\w-]+))?\)", text):
        target = page.parent / path
        assert target.exists(), path
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}
