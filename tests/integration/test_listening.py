"""Servers that Assay starts take connections from this machine alone, unless they are told otherwise."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import ASSAY
from tests.integration.test_compose import listening
from tests.peers.compose import ROOT, free_port


@pytest.mark.prefect
@pytest.mark.slow
def test_assay_up(tmp_path: Path) -> None:
    if subprocess.run([ASSAY, "up", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("this Assay has no `assay up`")
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ASSAY_"))}
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [ASSAY, "up", "--port", str(port), "--campaigns", ROOT / "configs"],
        cwd=tmp_path,
        env=environment | {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 150
        while port not in {found for _, found in listening(psutil.Process(process.pid))}:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.5)
        time.sleep(5)  # its worker comes after its server
        sockets = listening(psutil.Process(process.pid))
        assert {host for host, _ in sockets} == {"127.0.0.1"}, sockets
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            log.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
