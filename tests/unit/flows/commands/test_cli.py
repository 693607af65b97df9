"""The command line: what it answers at once, and what it says to mistakes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.cli import main
from flows.output.progress import Progress
from flows.report import table as tables
from materials.store.ledger import Ledger
from tests.unit.materials import made_records as made


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'assay.db'}"
    with Ledger.open(url) as opened:
        campaign_id = opened.add_campaign("test", {"name": "test"})
        candidates = [made.candidate(f"NaCl-{letter}") for letter in "abc"]
        opened.add_candidates(campaign_id, candidates)
        opened.publish(campaign_id, [made.ranked(c.material_id, rank=i) for i, c in enumerate(candidates, start=1)])
    return url


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["table", "--ledger", "nowhere.db"], "nowhere.db"),
        (["tabel"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--budget", "-1"], "-1 is not in the range"),
    ],
)
def test_bad_input_is_a_sentence_and_a_two(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = call(capsys, *arguments)
    assert said in error
    assert "Traceback" not in error
    assert code == (1 if "nowhere.db" in arguments else 2)
    assert list(tmp_path.iterdir()) == []  # and nothing was made


def test_table_in_each_format(capsys: pytest.CaptureFixture[str], ledger: str, tmp_path: Path) -> None:
    code, out, _ = call(capsys, "table", "--ledger", ledger, "--format", "json", "--limit", "2")
    assert code == 0
    assert [row["rank"] for row in json.loads(out)] == [1, 2]
    _, out, _ = call(capsys, "table", "--ledger", ledger, "--format", "csv", "--columns", "rank,material_id")
    assert out.splitlines() == ["rank,material_id", "1,NaCl-a", "2,NaCl-b", "3,NaCl-c"]
    target = tmp_path / "table.parquet"
    call(capsys, "table", "--ledger", ledger, "--format", "parquet", "--output", str(target))
    import pandas as pd

    assert len(pd.read_parquet(target)) == 3
    _, out, _ = call(capsys, "table", "--ledger", ledger)
    assert "NaCl-a" in out


@pytest.mark.parametrize("name", ["[/i]", "[bold]a[/bold]", "[link=x]", "a[", "[/", "\\[x]", "[red on"])
def test_names_are_text_and_no_markup(name: str) -> None:
    written = tables.as_text([{"material_id": name, "parents": name, "message": name}])
    assert written.count(name) == 3


@pytest.mark.parametrize("name", ["[/i]", "[bold]a[/bold]"])
def test_titles_are_text_and_no_markup(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(bars=True)
    with progress.counting(f"Screening with {name}", 2, name) as counter:
        progress.say(f"said {name}")
        counter.advance()
    assert f"said {name}" in screen.getvalue()
    assert f"Screening with {name}" in screen.getvalue()


def test_an_unknown_column_names_the_nearest(capsys: pytest.CaptureFixture[str], ledger: str) -> None:
    code, _, error = call(capsys, "table", "--ledger", ledger, "--where", "band_gp > 1")
    assert (code, "did you mean band_gap?" in error) == (2, True)


def test_schema_prints_the_committed_schema(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    _, out, _ = call(capsys, "schema")
    assert out == (root / "configs" / "campaign.schema.json").read_text()


def test_help_imports_nothing_heavy() -> None:
    """Start-up counts: none of the libraries that take a second is touched before it is needed."""
    heavy = ("torch", "pymatgen", "prefect", "pandas", "sqlalchemy", "distributed", "numpy", "pydantic")
    code = (
        "import sys\nfrom flows.commands.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_table_imports_neither_pymatgen_nor_pandas(ledger: str) -> None:
    code = (
        "import sys\nfrom flows.commands.cli import main\n"
        f"try:\n    main(['table', '--ledger', {ledger!r}])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'pymatgen', 'pandas', 'prefect') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_without_a_dft_code_nothing_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    from models.dft.gpaw.code import find_installation

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSAY_GPAW_PYTHON", "/nowhere/python")
    find_installation.cache_clear()
    try:
        code, _, error = call(capsys, "run", str(root / "configs" / "quickstart.yaml"))
    finally:
        find_installation.cache_clear()
    assert code == 1
    assert "deploy/setup" in error
    assert "--no-dft" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["status"], ["run", "/nowhere.yaml"], ["up"], ["--help"]])
def test_a_folder_that_is_gone_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    code, out, said = call(capsys, *arguments)
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert said.startswith("assay: the folder you are in is gone")


@pytest.mark.parametrize("limit", ["99999999999999999999999", str(2**31)])
@pytest.mark.parametrize("command", [["table"], ["export", "out"]])
def test_a_limit_that_no_database_takes(
    capsys: pytest.CaptureFixture[str],
    ledger: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    limit: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = call(capsys, *command, "--ledger", ledger, "--limit", limit)
    assert code == 2
    assert f"{limit} is not in the range" in said
