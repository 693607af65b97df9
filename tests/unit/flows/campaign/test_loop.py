"""A run from its opening to its end."""

import logging
from pathlib import Path

import pytest

from flows.campaign.loop import Request, opened
from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.output.progress import Progress


def test_what_the_ledger_says_of_itself_is_told_where_the_rest_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    salts = {"kind": "prototypes", "roles": {"A": ["Na"], "X": ["Cl"]}}
    content = {"name": "a", "sources": [salts]}
    request = Request(
        campaign=Campaign.model_validate(content),
        cluster=Cluster(),
        ledger_url=f"sqlite:///{tmp_path / 'assay.db'}",
        folder=tmp_path,
        use_dft=False,
    )
    said: list[str] = []
    ledger = logging.getLogger("assay.ledger")
    with opened(request, Progress(said.append)):
        ledger.warning("The ledger does not answer")
    assert said[-1] == "The ledger does not answer"
    ledger.warning("Nobody runs")
    assert said[-1] == "The ledger does not answer"
    assert "does not answer" not in capsys.readouterr().err
