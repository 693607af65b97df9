"""A campaign's folder, with a note of each DFT calculation that was ever started in it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

CALCULATION = re.compile(r"/assay-runs/dft/([0-9a-f]+)")


class CampaignFolder:
    """Where a campaign is run.

    Attributes:
        campaign: Its file.
        ledger: An SQLite file.
        settings: The environment of whoever runs it has them, too.
    """

    def __init__(self, folder: Path, campaign: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.campaign, self.ledger = folder, campaign, folder / "assay.db"
        self._runs, self._starts = folder / "assay-runs", folder / "starts.txt"
        self._starts.touch()
        # A Python that notes each calculation that it is started for, and becomes the one that has GPAW.
        python = folder / "python"
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *{self._runs.name}/dft/*) echo "$*" >> "{self._starts}";; esac\n'
            f'exec "{os.environ.get("ASSAY_GPAW_PYTHON", sys.executable)}" "$@"\n'
        )
        python.chmod(0o755)
        self.settings = {
            "ASSAY_GPAW_PYTHON": str(python),
            "ASSAY_DATABASE_URL": f"sqlite:///{self.ledger}",
            "ASSAY_RUN_DIR": str(self._runs),
        }

    def started(self) -> Counter[str]:
        """How often each calculation was started."""
        return Counter(CALCULATION.findall(self._starts.read_text()))

    def calculations(self) -> dict[str, psutil.Process]:
        """The processes that compute now, by calculation."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            # Neither the shell before it nor a program that it has started.
            if any(Path(word).name == "driver.py" for word in words[:4]) and str(self._runs) in " ".join(words):
                found[CALCULATION.findall(" ".join(words))[0]] = process
        return found

    def is_element(self, calculation: str) -> bool:
        """Whether a calculation is of an element: a corner of hulls."""
        task = json.loads((self._runs / "dft" / calculation / "task.json").read_text())
        return len(set(task["numbers"])) == 1

    def has_result(self, calculation: str) -> bool:
        """Whether a calculation has ended."""
        return (self._runs / "dft" / calculation / "result.json").exists()

    def taken_back(self, calculation: str) -> int:
        """How often the flow stopped a calculation before it had ended."""
        attempts = self._runs / "dft" / calculation / "attempts.json"
        return sum(one["end"] == "stopped" for one in json.loads(attempts.read_text())) if attempts.exists() else 0

    def close(self) -> None:
        """End what computes."""
        for process in self.calculations().values():
            with suppress(psutil.NoSuchProcess):
                process.kill()
