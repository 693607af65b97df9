"""The campaign loop: propose, screen, then select and validate round by round, and publish after each."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster
from flows.config.sources import elements_of
from flows.output.places import require_folder
from flows.output.progress import Progress
from flows.output.terminal import stop_signals
from flows.run.context import Interrupted, Run
from flows.stages.assess import assess_screened
from flows.stages.choose import choose
from flows.stages.pool import gather_pool
from flows.stages.propose import check_readable, propose
from flows.stages.publish import publish, require_result
from flows.stages.screen import screen
from flows.stages.unsound import tell_missing_references
from flows.stages.validate import relax_best, require_corners, validate
from materials.errors import HullError, LedgerError
from models.dft.registry import open_code

Result = TypeVar("Result")


class Step(Protocol):
    """Runs one stage: calls it, or makes a Prefect task of it."""

    def __call__(self, name: str, stage: Callable[..., Result], *arguments: Any) -> Result:
        """Run the stage under a name that a person can read."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A campaign that somebody wants run."""

    campaign: Campaign
    cluster: Cluster
    ledger_url: str | None = None
    folder: Path = Path("assay-runs")
    use_dft: bool = True
    retry_failed: bool = False


def direct(name: str, stage: Callable[..., Result], *arguments: Any) -> Result:
    """Run a stage by calling it."""
    return stage(*arguments)


def discover(run: Run, step: Step = direct) -> None:
    """Propose, screen, then choose and validate round by round, and publish what is known after each."""
    step("propose", propose, run)
    tell_missing_references(run)
    try:
        step("screen", screen, run)
    except Interrupted:
        publish_unfinished(run)
        raise
    screened = step("assess", assess_screened, run)
    pool = step("describe", gather_pool, run, screened)
    round_number, n_relaxed = 1, 0
    if run.use_dft:
        while picks := step(f"choose, round {round_number}", choose, run, screened, pool, round_number):
            step(f"validate, round {round_number}", validate, run, screened, picks)
            step(f"publish, round {round_number}", publish, run, screened, pool)
            require_corners(run, screened, picks)
            round_number += 1
        n_relaxed = step("relax the best", relax_best, run, screened)
    if round_number == 1 or n_relaxed:  # else the last round's table and report hold all of it
        step("publish", publish, run, screened, pool)
    require_result(run)


def publish_unfinished(run: Run) -> None:
    """Publish what a screening had done when it was stopped: hulls of what is known, and a table to look at."""
    rest = replace(run, stop=threading.Event(), use_dft=False)
    if not rest.screened():
        return
    try:
        screened = assess_screened(rest, keep=False)
    except HullError as error:
        run.progress.say(f"There is no table yet: {error}")
        return
    publish(rest, screened, gather_pool(rest, screened))
    run.progress.say("The table has what was screened by now, on hulls of the phases that are known by now.")


def check(campaign: Campaign, *, use_dft: bool = True) -> None:
    """Look whether all that a campaign needs is here, before anything is computed: its files, the DFT code.

    Raises:
        AssayError: Something is not; the message names it and what to do.
    """
    check_readable(campaign)
    if use_dft and campaign.dft.budget:
        code = open_code(campaign.dft.choice())
        code.version()
        code.find_potentials(elements_of((*campaign.sources, *campaign.competing)))


@contextmanager
def opened(request: Request, progress: Progress) -> Iterator[Run]:
    """Open the ledger, note the run and how it ended, and let Ctrl-C end it cleanly."""
    from flows.run import process
    from flows.run.versions import versions
    from materials.store.ledger import Ledger

    campaign = request.campaign
    check(campaign, use_dft=request.use_dft)
    require_folder(request.folder, "--folder")
    _upgrade_own(request.ledger_url, progress)
    with Ledger.open(request.ledger_url) as ledger:
        run = Run(
            campaign=campaign,
            cluster=request.cluster,
            campaign_id=ledger.add_campaign(campaign.name, campaign.identity()),
            ledger=ledger,
            folder=request.folder,
            progress=progress,
            use_dft=request.use_dft,
            retry_failed=request.retry_failed,
        )
        run_id = ledger.start_run(
            run.campaign_id,
            versions=versions() | process.here(),
            weights_hash=run.potential_identity.weights_hash,
            config=campaign.model_dump(mode="json"),
            budget=campaign.dft.budget if request.use_dft else 0,
        )
        progress.say(f"Campaign {run.campaign_id} in {ledger.url}, files in {request.folder}")
        try:
            with _stopping(run), _heard(progress):
                yield run
        except BaseException as error:
            state = "stopped" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            with suppress(LedgerError):  # what went wrong first is what is told
                ledger.end_run(run_id, state)
            raise
        ledger.end_run(run_id, "finished")


def _upgrade_own(url: str | None, progress: Progress) -> None:
    """Bring an SQLite file of an older Assay to this version; a server's database is not ours to change unasked."""
    from materials.store.migrations.upgrade import due, upgrade

    planned = due(url)
    if planned is not None and planned.backup is not None and (done := upgrade(url)) is not None:
        progress.say(f"Ledger {done.url}: schema version {done.found} became {done.wanted}; as it was: {done.backup}")
        for note in done.notes:
            progress.say(note)


@contextmanager
def _heard(progress: Progress) -> Iterator[None]:
    """Tell, where the rest is told, what the ledger says of itself: that it waits for its database."""
    import logging

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.say(record.getMessage())

    logger, told = logging.getLogger("assay"), Told()
    logger.addHandler(told)
    logger.propagate = False  # or a terminal would show it twice
    try:
        yield
    finally:
        logger.removeHandler(told)
        logger.propagate = True


@contextmanager
def _stopping(run: Run) -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or hang-up into a clean stop; the second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        run.stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        run.progress.say("Stopping: what runs is ended, what has ended is kept. Again, to end at once.")

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
