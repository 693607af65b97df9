"""Runs under a real Prefect server that nobody hears of any more."""

from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from flows.orchestration import crashes
from tests.peers.prefect_server import running

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


def test_a_run_that_was_killed_before_a_word_of_its_own_shows_as_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "BEGIN", timedelta(seconds=15))
    monkeypatch.setattr(crashes, "SILENCE", timedelta(seconds=25))
    with running(tmp_path, {}) as prefect:
        with temporary_settings(prefect.client_settings()), get_client(sync_client=True) as client:
            crashes.call_silence_a_crash(client)
            crashes.call_silence_a_crash(client)
        assert len(prefect.post("/automations/filter")) == 2

        def run(flow: str, *states: str) -> str:
            flow_id = prefect.post("/flows/", {"name": flow})["id"]
            flow_run_id = str(prefect.post("/flow_runs/", {"flow_id": flow_id})["id"])
            for state in states:
                prefect.post(f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": state}})
            return flow_run_id

        others = [run("other", "PENDING"), run("other", "PENDING", "RUNNING")]
        pending, begun = run("discover", "PENDING"), run("discover", "PENDING", "RUNNING")
        state, message = prefect.wait_for_end(pending, 60)
        assert state == "CRASHED"
        assert "has not begun" in message
        state, message = prefect.wait_for_end(begun, 60)
        assert state == "CRASHED"
        assert "Not heard of" in message
        assert [prefect.state(other)[0] for other in others] == ["PENDING", "RUNNING"]
