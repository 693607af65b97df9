"""The report's words and pictures."""

import io
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.output.progress import Progress
from flows.report import plots, report
from flows.report import table as tables
from flows.report.ranked_csv import Noted
from materials.records import RankedCandidate, Selection, Target
from materials.stability.competing_phases import ValidationPlan
from tests.unit.materials import made_records as made

TARGETS = [
    Target(property="decomposition_energy_per_atom", goal="at_most", value=0.05),
    Target(property="band_gap", goal="near", value=1.3, tolerance=0.3),
]


def selections(*ids: str) -> list[Selection]:
    return [made.selection(name, round=index, rank=1) for index, name in enumerate(ids, start=1)]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (TARGETS[0], "decomposition energy at most 0.05 eV/atom"),
        (TARGETS[1], "band gap within 0.3 of 1.3 eV"),
        (Target(property="band_gap", goal="at_least", value=2.0), "band gap at least 2 eV"),
        (Target(property="formation_energy_per_atom", goal="minimize"), "minimize formation energy"),
    ],
)
def test_wishes_read_well(target: Target, words: str) -> None:
    assert report.wish(target) == words


def test_where_the_time_went_longest_first() -> None:
    assert report.spent_on({"DFT": 200.0, "hull": 0.01, "relaxation": 14.0}) == "DFT 3 min 20 s, relaxation 14 s"


def test_a_markdown_table_keeps_to_its_columns() -> None:
    rows = [made.ranked("a", rank=1, parents="x|y" * 40), made.ranked("b", rank=2, band_gap=None, score=None)]
    lines = report.ranked_table(rows).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}


def test_what_a_file_calls_its_structures_is_no_markdown() -> None:
    row = made.ranked("a", rank=1, parents="<img src=x>\n[a](b) ![c](d) *e*")
    (line,) = report.ranked_table([row]).splitlines()[2:]
    assert "| \\<img src=x\\> \\[a\\](b) !\\[c\\](d) \\*e\\* |" in line


MARK = "<script>alert(1)</script> ![x](http://evil.example/x.png) [/i] [bold]b[/] `c`:bell: \x1b[31m| *e*\n\n# Big\n- x"


def marked(**changes: Any) -> RankedCandidate:
    """A row whose every text is markup, but for the formula, which is made of elements."""
    texts = {name: MARK for name, value in asdict(made.ranked()).items() if isinstance(value, str)}
    return made.ranked(
        **texts | {"formula": "NaCl", "predicted": {"band_gap": (1.0, 0.1)}, "round": 1, "acquisition": MARK} | changes
    )


def a_marked_report(folder: Path) -> tuple[Any, str]:
    """A campaign that carries markup wherever it may say something, and the report that was written of it."""
    potential = {"kind": "ase", "model": "materials.plain_text:code", "level_of_theory": MARK}
    campaign = Campaign.model_validate(
        {
            "name": "marked",
            "description": MARK,
            "hull_leaves_out": MARK,
            "sources": [{"kind": "files", "path": MARK}],
            "screening": {"potential": potential},
        }
    )
    run: Any = SimpleNamespace(
        campaign=campaign,
        campaign_id="marked-1",
        folder=folder / MARK.replace("/", "").replace("\n", " "),
        targets=TARGETS,
        progress=SimpleNamespace(seconds={"DFT": 2.0}),
        ledger=SimpleNamespace(
            url="u",
            unread=lambda _: [],
            selections=lambda _: selections("hit", "far", "lost"),
            missing=lambda *_: {"screened": 0},
        ),
    )
    rows = [
        marked(material_id="hit", status="validated", fidelity="dft", meets_targets=True, band_gap=1.3),
        marked(material_id="far", status="validated", fidelity="dft", meets_targets=False, band_gap=3.0),
        marked(material_id="lost", status="failed", fidelity=None),
        marked(material_id="silent", status="failed", fidelity=None, message=""),
        marked(),
    ]
    evidence = report.Evidence(
        rows=rows,
        distances=[0.01],
        plans=[ValidationPlan(material_id="hit", phases=("a",), stand_ins={"big": "a"}, left_out=("other",))],
        relaxed={
            "hit": made.calculation("hit", status="failed", message=MARK),
            "silent": made.calculation("silent", status="failed", message=""),
            "far": made.calculation("far", level_of_theory=MARK),
        },
        names=dict.fromkeys(("hit", "big", "other", "far"), MARK),
        n_answers=3,
        cautions={MARK: [MARK, MARK], "far": [MARK]},
        verdict=MARK,
    )
    report.write(run, evidence)
    return run, report.with_pictures_inside(run)


def test_no_text_of_a_campaign_or_a_file_is_markup_in_the_report(tmp_path: Path) -> None:
    run, text = a_marked_report(tmp_path)
    page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text)
    elements = set(re.findall(r"<([a-z0-9]+)", page))
    ours = {"h1", "h2", "p", "ul", "li", "img", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert elements == ours
    assert page.count("<img") == 1
    assert "evil.example" not in "".join(re.findall(r"(?:src|href)=.[^\"]*", page))
    assert re.findall(r"<h[1-6]>(.*?)</h", page) == [
        "marked",
        "Found",
        "Validated with DFT",
        "Next in line",
        report.TRUST,
        "Relaxed with DFT",
        "What the hull leaves out",
        "Where the time of the last run went",
    ]
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 15  # and it is all there, as text
    assert {row.count("<td") for row in page.split("<tr>")[1:]} <= {0, 8}
    assert "\x1b" not in text
    lines = "\n".join(report.closing_lines(run))
    assert "<script>alert(1)</script> ![x](http://evil.example/x.png) [/i]" in lines
    assert "\\" not in lines


@pytest.mark.parametrize("bars", [False, True])
def test_a_terminal_shows_texts_as_they_are(bars: bool, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(bars=bars)
    with progress.counting(MARK, 1, "structures") as counter:
        progress.say(MARK)
        counter.advance()
    table = tables.as_text([{"material_id": MARK, "status": "[/i]", "[/b]": "\x1b]0;x\x07"}])
    shown = capsys.readouterr().err + table
    assert shown.count("[/i] [bold]b[/]") >= 3 if not bars else "[bold]b[/]" in shown
    assert ":bell:" in shown
    assert "🔔" not in shown
    assert "\x1b[31m" not in shown
    assert "\x1b]" not in shown


def test_a_deployment_describes_itself_in_text() -> None:
    pytest.importorskip("prefect")
    from flows.orchestration import deployments

    said: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            deployments.RunnerDeployment,
            "from_flow",
            lambda _flow, **given: said.update(given) or SimpleNamespace(model_fields_set=set(), apply=lambda: None),
        )
        sources = [{"kind": "files", "path": "x.cif"}]
        campaign = Campaign.model_validate({"name": "marked", "description": MARK, "sources": sources})
        deployments._deployment(campaign, Cluster(), Path())
    page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(said["description"])
    assert set(re.findall(r"<([a-z0-9]+)", page)) == {"p"}


def test_pictures_only_of_what_there_is() -> None:
    assert plots.draw([], [], [], TARGETS) == {}
    screened = made.ranked("a", rank=1, fidelity="mlip", energy_above_hull_mlip=0.02)
    assert list(plots.draw([screened], [0.02], [], TARGETS)) == ["overview.png"]


def test_the_same_evidence_draws_the_same_picture() -> None:
    validated = made.ranked(
        "a", rank=1, fidelity="dft", energy_above_hull_mlip=0.0, decomposition_energy_mlip=-0.03, band_gap=1.4
    )
    one, two = (plots.draw([validated], [0.0], selections("a"), TARGETS)["overview.png"] for _ in range(2))
    assert one.startswith(b"\x89PNG")
    assert one == two


def test_there_is_a_panel_more_for_what_was_predicted_before_dft_answered() -> None:
    import matplotlib.image

    validated = made.ranked("a", rank=1, fidelity="dft", decomposition_energy_mlip=-0.03, band_gap=1.4)
    known = selections("a")
    known[0] = replace(known[0], why={"answered": ["band_gap", "decomposition_energy_per_atom"]})
    sizes = []
    for picked in (known, selections("a")):
        picture = io.BytesIO(plots.draw([validated], [0.0], picked, TARGETS)["overview.png"])
        sizes.append(matplotlib.image.imread(picture).shape[:2])
    # Three panels are a row; with one for each of two targets they are five in two rows.
    assert sizes == [(429, 1716), (858, 1716)]


def test_a_terminal_is_told_what_speaks_against_predictions_and_no_tables(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(
        folder=tmp_path,
        campaign_id="c",
        progress=SimpleNamespace(seconds={}),
        ledger=SimpleNamespace(url="u", unread=lambda _: []),
    )
    report.folder(run).mkdir(parents=True)
    trust = f"## {report.TRUST}\n\n- check this\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    (report.folder(run) / "summary.md").write_text(f"# made\n\n## Found\n\n- one\n\n![plot](plot.png)\n\n{trust}\n")
    lines = report.closing_lines(run)
    assert lines[:4] == ["Found:", "  - one", f"{report.TRUST}:", "  - check this"]
    assert not any("|" in line for line in lines)


def test_values_are_shown_as_a_person_reads_them() -> None:
    assert [tables.shown(v) for v in (None, True, False, 1.23456, 3, "x")] == ["–", "yes", "no", "1.235", "3", "x"]


def test_rows_pass_into_the_file_and_those_to_speak_of_are_noted(tmp_path: Path) -> None:
    rows = [made.ranked(f"m{i}", rank=i, status="screened", energy_above_hull_mlip=0.01 * i) for i in range(1, 100)]
    rows[0] = made.ranked("m1", rank=1, status="validated", fidelity="dft")
    rows[80] = made.ranked("m81", rank=81, status="selected", round=2, energy_above_hull_mlip=None)
    with Noted.in_folder(lambda: iter(rows), tmp_path) as noted:
        assert next(iter(noted)) == rows[0]
        assert list(noted) == rows  # from the beginning, for the ledger may have to be told again
    assert [row.material_id for row in noted.rows] == [f"m{i}" for i in range(1, report.TOP + 2)] + ["m81"]
    assert len(noted.distances) == 98
    assert (tmp_path / "ranked.csv").read_text() == tables.as_csv([asdict(row) for row in rows])
    assert [path.name for path in tmp_path.iterdir()] == ["ranked.csv"]


def test_a_table_that_could_not_be_published_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "ranked.csv").write_text("before")

    def publish() -> None:
        with Noted.in_folder(lambda: [made.ranked("a", rank=1)], tmp_path) as noted:
            next(iter(noted))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        publish()
    assert (tmp_path / "ranked.csv").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["ranked.csv"]
