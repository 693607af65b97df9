"""What could not be read is named, with its reason, wherever a campaign is spoken of."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.commands.cli import main
from flows.commands.status import status
from flows.report import report
from flows.run.context import Run
from flows.stages.propose import propose
from materials.errors import QueryError
from materials.explanation import explain
from materials.plain_text import in_markdown
from tests.unit.flows.made_runs import opened_run

GOOD = "Na Cl\n5.64\n0 .5 .5\n.5 0 .5\n.5 .5 0\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
N_BAD = 13


@pytest.fixture
def run(tmp_path: Path) -> Any:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "good.vasp").write_text(GOOD)
    for n in range(N_BAD):
        (folder / f"<b>{n:02d}.vasp").write_text("nothing")
    (folder / "two.xyz").write_text("1\n\nNa 0 0 0\n" * 2)
    sources = [{"kind": "files", "path": str(folder)}]
    with opened_run(tmp_path, {"name": "made", "sources": sources, "dft": {"budget": 0}}) as run:
        propose(run)
        yield run


def test_status_names_ten_and_counts_the_others(run: Run) -> None:
    told = status(run.ledger, None, "text").splitlines()
    at = next(n for n, line in enumerate(told) if line.split() == ["could", "not", "be", "read", str(N_BAD + 2)])
    named = [line for line in told if "cannot be read as CIF or POSCAR" in line]
    assert "set/<b>00.vasp" in named[0]
    assert (len(named), len(told) - at - 1) == (10, 11)
    assert "and 5 more" in told[-1]


def test_a_name_gives_no_orders_to_a_terminal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (run.folder / "set").glob("<b>*"):
        path.write_text(GOOD)
    (run.folder / "set" / "\x1b[31m.vasp").write_text("nothing")
    propose(run)
    with pytest.raises(SystemExit) as ended:
        main(["status", "--ledger", str(run.folder / "assay.db")])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "[31m.vasp" in told
    assert "\x1b" not in told


def test_json_names_all(run: Run) -> None:
    (told,) = json.loads(status(run.ledger, None, "json"))
    assert len(told["unread"]) == N_BAD + 2
    assert told["unread"][-1]["error"] == "NotPeriodic"
    assert told["unread"][-1]["name"] == "set/two.xyz#2"
    assert "not periodic" in told["unread"][-1]["message"]


def test_report_and_end_name_them(run: Run) -> None:
    evidence: Any = SimpleNamespace(
        rows=[], distances=[], plans=[], relaxed={}, names={}, n_answers=0, cautions={}, verdict=""
    )
    text = report.summary(run, evidence, [], {})
    assert f"## {report.UNREAD}" in text
    assert f"- {in_markdown('set/<b>00.vasp cannot be read')}" in text
    report.folder(run).mkdir(parents=True)
    (report.folder(run) / "summary.md").write_text(text)
    lines = report.closing_lines(run)
    at = lines.index(f"{report.UNREAD}:")
    assert lines[at + 1].startswith("  set/<b>00.vasp cannot be read")
    assert "and 5 more" in lines[at + 11]


@pytest.mark.parametrize("name", ["set/two.xyz", "two.xyz", "./set/two.xyz", "/data/set/two.xyz", "two.xyz#2"])
def test_show_finds_a_file(run: Run, name: str) -> None:
    said = explain(run.ledger, name, "text")
    assert "set/two.xyz#2 is not periodic" in said
    assert ("two.xyz#1" in said) == ("#" not in name)
    assert json.loads(explain(run.ledger, name, "json"))[-1]["error"] == "NotPeriodic"
    with pytest.raises(QueryError):
        explain(run.ledger, "o.xyz", "text")


def test_what_is_read_at_the_next_run_is_named_no_more(run: Run) -> None:
    for path in (run.folder / "set").glob("<b>*"):
        path.write_text(GOOD)
    propose(run)
    assert [failure.material_id for failure in run.ledger.unread()] == ["set/two.xyz#1", "set/two.xyz#2"]


@pytest.mark.parametrize("role", ["sources", "competing"])
@pytest.mark.parametrize("kind", ["files", "substitution"])
def test_nothing_that_can_be_read_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, role: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.cif", "b.vasp"):
        (tmp_path / name).write_text("nothing")
    bad = [{"kind": kind, "path": name} for name in ("a.cif", "b.vasp")]
    salts = [{"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}]
    campaign = {"name": "made", "sources": salts, "dft": {"budget": 0}} | {role: bad}
    Path("c.yaml").write_text(json.dumps(campaign))
    with pytest.raises(SystemExit) as ended:
        main(["run", "c.yaml", "--no-dft"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert role in said
    assert "a.cif holds no crystal" in said
    assert "b.vasp cannot be read" in said
    assert not Path("assay.db").exists()
    assert not Path("assay-runs").exists()
