"""Runs under a real Prefect server that nobody hears of any more."""

from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import crashes
from tests.peers.prefect_server import running

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


def test_a_run_whose_worker_died_before_it_began_shows_as_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "BEGIN", timedelta(seconds=15), raising=False)
    with running(tmp_path, {}) as prefect:
        with temporary_settings({PREFECT_API_URL: prefect.url}), get_client(sync_client=True) as client:
            crashes.call_silence_a_crash(client)
            crashes.call_silence_a_crash(client)
        assert len(prefect.post("/automations/filter")) == 2
        flow = prefect.post("/flows/", {"name": "any"})
        pending, begun = (prefect.post("/flow_runs/", {"flow_id": flow["id"]})["id"] for _ in range(2))
        for flow_run_id, state in ((pending, "PENDING"), (begun, "PENDING"), (begun, "RUNNING")):
            prefect.post(f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": state}})
        state, message = prefect.wait_for_end(pending, 60)
        assert state == "CRASHED"
        assert "has not begun" in message
        assert prefect.state(begun)[0] == "RUNNING"
