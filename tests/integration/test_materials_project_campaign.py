"""`configs/materials-project.yaml` whole, against a local server that speaks as the Materials Project does."""

import json
from pathlib import Path

import pytest

from tests.integration.conftest import run
from tests.peers import materials_project as peer

CAMPAIGN = Path(__file__).parents[2] / "configs" / "materials-project.yaml"

pytestmark = [pytest.mark.dft, pytest.mark.slow]


def test_pulled_screened_selected_and_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpaw: None) -> None:
    with peer.running() as server:
        monkeypatch.setenv("MP_API_ENDPOINT", server.url)
        monkeypatch.setenv("MP_API_KEY", peer.KEY)
        # It stumbles, as real servers do.
        server.misbehave("summary", "503", times=1)
        said = run(tmp_path, "run", str(CAMPAIGN))
    assert "Materials Project" in said
    assert peer.VERSION in said
    table = json.loads(run(tmp_path, "table", "--where", "status = validated", "--format", "json"))
    assert len(table) == 2
    assert all(row["known_as"].startswith("mp-") and row["fidelity"] == "dft" for row in table)
    assert all(row["level_of_theory"].startswith("PBE/gpaw") for row in table)
    # A row is found by the source's own id, and knows its origin.
    shown = run(tmp_path, "show", table[0]["known_as"])
    assert table[0]["material_id"] in shown
    # Nowhere the key.
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert peer.KEY.encode() not in file.read_bytes(), file
    assert peer.KEY not in said
    # What was pulled is frozen: without a server the same version answers, and nothing is left to do.
    frozen = tmp_path / "frozen.yaml"
    frozen.write_text(CAMPAIGN.read_text().replace("snapshot: latest", f"snapshot: {json.dumps(peer.VERSION)}"))
    again = run(tmp_path, "run", str(frozen), "--no-dft")
    assert peer.VERSION in again


def test_without_a_key_nothing_runs(tmp_path: Path) -> None:
    said = run(tmp_path, "run", str(CAMPAIGN), "--no-dft", code=2)
    assert "MP_API_KEY" in said
    assert "Traceback" not in said


def test_a_server_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.setenv("MP_API_KEY", peer.KEY)
    said = run(tmp_path, "run", str(CAMPAIGN), "--no-dft", code=1)
    assert "Traceback" not in said
    assert peer.KEY not in said
