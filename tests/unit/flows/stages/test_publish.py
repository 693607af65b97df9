"""The end of a campaign none of whose rows has a result."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.stages.publish import require_result
from materials.errors import NoResult
from materials.records import Failure
from materials.store.ledger import Ledger
from tests.unit.materials.made_records import candidate, ranked, selection


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path / 'assay.db'}") as ledger:
        yield ledger


def run(ledger: Ledger, statuses: list[str], *, use_dft: bool = True, failed: str = "screen") -> Any:
    campaign_id = ledger.add_campaign("toy", {})
    names = [f"m{number}" for number in range(len(statuses))]
    ledger.add_candidates(campaign_id, [candidate(name) for name in names])
    rows = [ranked(name, rank=i, status=s) for i, (name, s) in enumerate(zip(names, statuses, strict=True), start=1)]
    ledger.publish(campaign_id, rows)
    failures = [
        Failure(material_id=name, stage=failed, error="exploded", message="too close")
        for name, status in zip(names, statuses, strict=True)
        if status == "failed"
    ]
    ledger.add_failures(campaign_id, failures)
    return SimpleNamespace(
        ledger=ledger, campaign_id=campaign_id, use_dft=use_dft, campaign=SimpleNamespace(name="toy")
    )


@pytest.mark.parametrize("statuses", [["failed", "screened"], ["proposed"], [], ["validated", "failed"]])
def test_a_campaign_with_a_row_or_without_any_ends_well(ledger: Ledger, statuses: list[str]) -> None:
    require_result(run(ledger, statuses))


def test_a_campaign_whose_rows_all_failed_failed(ledger: Ledger) -> None:
    with pytest.raises(NoResult, match=r"none of 2 candidates has a result \(2 exploded\); the first: m0: too close"):
        require_result(run(ledger, ["failed", "failed"]))


def test_a_campaign_whose_selections_all_failed_in_dft_failed(ledger: Ledger) -> None:
    toy = run(ledger, ["failed", "screened"], failed="dft")
    ledger.add_selections(toy.campaign_id, [selection("m0")])
    with pytest.raises(NoResult, match=r"none of 1 candidate selected for DFT has a result of it \(1 exploded\)"):
        require_result(toy)
    toy.use_dft = False
    require_result(toy)
