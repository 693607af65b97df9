"""Kills with -9 at random moments, a handful: tests/benchmarks/kills.py does forty."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.benchmarks.kills import play
from tests.integration.conftest import SMALL
from tests.peers.campaign_folder import CampaignFolder
from tests.peers.killing import STAGES, Story
from tests.peers.ledger_rows import rows_of
from tests.peers.scenes import VICTIMS, CommandLine

pytestmark = [pytest.mark.dft, pytest.mark.slow]


@pytest.mark.prefect
@pytest.mark.long
def test_one_of_each_kind_is_killed_and_nothing_is_lost_nor_done_twice(finished: Path, tmp_path: Path) -> None:
    one_each, reference = dict.fromkeys(VICTIMS, 1), finished / "assay.db"
    kills, faults = play(one_each, tmp_path, SMALL, reference, random.Random(0), stages=STAGES[1:], gap_s=5)
    assert Counter(kill.victim for kill in kills) == Counter(VICTIMS)
    assert faults == []


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        ("delete from selections where round = 2", "1 rows of selections are gone"),
        ("update calculations set energy = energy + 0.1 where fidelity = 'dft'", "rows of calculations are gone"),
        ("update calculations set attempt = 2 where fidelity = 'dft'", "recorded again"),
        ("update stabilities set level_of_theory = 'PBE'", "hull distances"),
        ("update rankings set rank = rank + 1", "the table"),
    ],
)
def test_what_is_lost_or_told_twice_is_seen(finished: Path, tmp_path: Path, harm: str, seen: str) -> None:
    place = CampaignFolder(tmp_path / "harmed", SMALL)
    shutil.copy(finished / "assay.db", place.ledger)
    story = Story(scene=CommandLine(place), undisturbed=finished / "assay.db", draw=random.Random(0))
    story.check_end()
    assert story.faults == []
    story.seen = rows_of(place.ledger)
    with closing(sqlite3.connect(place.ledger)) as connection, connection:
        assert connection.execute(harm).rowcount
    story.check_end()
    assert any(seen in fault for fault in story.faults), story.faults


def test_a_calculation_that_is_started_again_is_seen(finished: Path, tmp_path: Path) -> None:
    place = CampaignFolder(tmp_path / "harmed", SMALL)
    shutil.copy(finished / "assay.db", place.ledger)
    story = Story(scene=CommandLine(place), undisturbed=finished / "assay.db", draw=random.Random(0))
    (tmp_path / "harmed" / "starts.txt").write_text("driver.py gpaw /x/assay-runs/dft/abc\n" * 3)
    story.dead["abc"] = 1
    story.check_end()
    assert story.faults == ["calculation abc: started 3 times, died 1 times, taken back 0 times"]
