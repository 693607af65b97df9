"""`assay run`: a campaign from the command line, or on the Prefect server that PREFECT_API_URL names."""

from __future__ import annotations

import gc
import os

from flows.campaign.loop import Request, discover, opened
from flows.orchestration.crashes import HEARTBEAT
from flows.orchestration.log_in import use_kept
from flows.output.progress import Progress
from flows.output.unforeseen import foreseen
from flows.run.context import Run

NEXT_SHOWN = 8  # rows of candidates that were not validated, at the end of a run


def run_request(request: Request) -> None:
    """Run a campaign from the command line, and end with its table.

    With PREFECT_API_URL set it is a flow run on that server.

    Raises:
        AssayError: Whatever stopped it; what had ended is in the ledger.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        os.environ.update(HEARTBEAT | os.environ)  # before Prefect's import reads them
        use_kept(url)
        from flows.orchestration.prefect_flow import run_as_flow

        run_as_flow(request)
        return
    # Tens of thousands of structures live as long as the campaign: to look through them often finds nothing.
    gc.set_threshold(50_000, 20, 100)
    progress = Progress()
    try:
        with opened(request, progress) as run:
            discover(run)
            tables, lines = _ending(run)
    except Exception as error:  # noqa: BLE001 - whatever it is, a person is told in a sentence
        raise foreseen(error, request.folder) from None
    # The campaign is through, whoever still listens.
    print(tables, end="", flush=True)  # before what is said on standard error
    for line in lines:
        progress.say(line)


def _ending(run: Run) -> tuple[str, list[str]]:
    """Write the ranked table, and in lines where the time went and where everything lies."""
    from flows.report import report
    from flows.report import table as tables

    written = ""
    for title, where, limit in (
        ("Validated with DFT", "status = validated", None),
        ("Next in line", "status != validated", NEXT_SHOWN),
    ):
        rows = tables.query(run.ledger, run.campaign_id, where=where, sort=None, limit=limit)
        if rows:
            written += f"{title}\n{tables.as_text(rows)}\n"
    return written, report.closing_lines(run)
