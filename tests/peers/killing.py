"""A campaign whose processes are killed with -9 at random moments, and what that must not have done to it."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.dft.outcomes import KILLS
from tests.peers.ledger_rows import TABLES, Rows, ask, differences, relaxed, rows_of
from tests.peers.scenes import DASK_SCHEDULER, DASK_WORKER, DFT, GONE_S, Scene
from tests.peers.waiting import soon

PATIENCE_S = 900.0  # for a campaign that makes no progress
STAGES = ("starting", "screening", "between", "DFT")
DEATHS = KILLS - 1  # of a calculation: one that is killed more often is left to the next run


@dataclass(kw_only=True)
class Kill:
    """One kill, and what came of it."""

    victim: str
    stage: str
    rows: int  # acknowledged before it
    lost: int = 0
    twice: int = 0


@dataclass(kw_only=True)
class Story:
    """One campaign from its beginning to its end.

    Attributes:
        scene: The way in which it is run.
        undisturbed: The ledger of the same campaign without kills.
        draw: Chance.
        stages: In which somebody is killed.
        gap_s: The longest time between two kills: it is drawn evenly.
        one_element: Of DFT calculations only one is killed, again and again: an element's.
        seen: Rows that were acknowledged at some time.
        dead: How often each calculation was killed before it had a result.
        missing: Relaxations without an answer when the flow was started last.
    """

    scene: Scene
    undisturbed: Path
    draw: random.Random
    stages: Sequence[str] = STAGES
    gap_s: float = 20.0
    one_element: bool = False
    kills: list[Kill] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seen: Rows = field(default_factory=lambda: {table: Counter() for table in TABLES})
    dead: Counter[str] = field(default_factory=Counter)
    missing: int = 0

    @property
    def ledger(self) -> Path:
        """Of this campaign."""
        return self.scene.place.ledger

    def run(self, wanted: Counter[str]) -> None:
        """Run it to its end, and kill on its way who is wanted and can be met."""
        progress, until = (0, 0), time.monotonic() + PATIENCE_S
        while not self.scene.is_done():
            now = (sum(rows.total() for rows in rows_of(self.ledger).values()), len(self.kills))
            if now != progress:
                progress, until = now, time.monotonic() + PATIENCE_S
            assert time.monotonic() < until, f"no progress for {PATIENCE_S:g} s: {self.scene.told()[-3000:]}"
            if not self.scene.is_running():
                self.start()
                continue
            soon(self.is_over, self.draw.uniform(0, self.gap_s) if +wanted else 0.2)
            stage = self.stage()
            victims = [v for v in self.scene.victims if wanted[v] and can_be_met(v, stage)]
            if stage not in self.stages or not victims or self.is_over():
                continue
            [victim] = self.draw.choices(victims, [wanted[v] for v in victims])
            if self.kill(victim):
                wanted[victim] -= 1
                print(f"  {victim} at {self.kills[-1].stage}; {self.kills[-1].rows} rows acknowledged", flush=True)
                if fault := self.scene.after(victim):
                    self.fault(fault)
        self.check_end()

    def is_over(self) -> bool:
        """Whether there is nobody to be killed any more."""
        return not self.scene.is_running() or self.scene.is_done()

    def start(self) -> None:
        """Start, or go on."""
        missing = relaxed(self.undisturbed) - relaxed(self.ledger)
        self.check_sent()
        if self.scene.start():
            self.missing = missing

    def stage(self) -> str:
        """Say how far it is, by its ledger and by who is at work."""
        if not ask(self.ledger, "select 1 from proposals limit 1"):
            return "starting"
        if relaxed(self.ledger) < relaxed(self.undisturbed):
            return "screening"
        return "DFT" if self.scene.place.calculations() else "between"

    def kill(self, victim: str) -> bool:
        """Kill one of a kind with -9, if there is any to be killed."""
        stage, computing = self.stage(), self.scene.place.calculations()
        names = {process.pid: name for name, process in computing.items()}
        with suppress(psutil.NoSuchProcess):
            found = self.scene.find(victim)
            if victim == DFT:
                found = [group for group in found if self.may_die(names.get(group[0].pid, ""))]
            if not found:
                return False
            chosen = self.draw.choice(found)
            before = rows_of(self.ledger)
            for process in chosen:
                process.kill()
            assert soon(lambda: all(map(is_gone, chosen)), GONE_S), f"{chosen} outlived kill -9"
            name = names.get(chosen[0].pid, "")
            if name and not self.scene.place.has_result(name):
                self.dead[name] += 1
            self.seen = {table: self.seen[table] | rows for table, rows in before.items()}
            self.kills.append(Kill(victim=victim, stage=stage, rows=sum(rows.total() for rows in before.values())))
            self.check_kept("right after the kill")
            return True
        return False

    def may_die(self, calculation: str) -> bool:
        """Whether a calculation may be killed once more."""
        if not calculation or self.dead[calculation] >= DEATHS:
            return False
        if not self.one_element:
            return True
        return calculation in self.dead if self.dead else self.scene.place.is_element(calculation)

    def fault(self, what: str, *, lost: int = 0, twice: int = 0) -> None:
        """Note what must not be."""
        self.faults.append(what)
        print(f"    FAULT: {what}", flush=True)
        if self.kills:
            self.kills[-1].lost += lost
            self.kills[-1].twice += twice

    def check_kept(self, when: str) -> None:
        """See whether all that was acknowledged is still there."""
        now = rows_of(self.ledger)
        for table, rows in self.seen.items():
            if missing := rows - now[table]:
                example = str(next(iter(missing)))[:400]
                self.fault(f"{missing.total()} rows of {table} are gone {when}: {example}", lost=missing.total())

    def check_sent(self) -> None:
        """See whether the flow sent more to be relaxed than had no answer when it was started."""
        said = re.findall(r"Screening with .*: (\d+) structures", self.scene.told())
        surplus = int(said[-1]) - self.missing if said else 0
        if surplus > 0:
            self.fault(f"{said[-1]} structures were sent, {self.missing} had no answer", twice=surplus)

    def check_end(self) -> None:
        """See whether it ended as an undisturbed one does, and nothing was computed twice."""
        self.check_sent()
        self.check_kept("at the end")
        place = self.scene.place
        for name, count in place.started().items():
            died, taken_back = self.dead[name], place.taken_back(name)
            if (surplus := count - 1 - died - taken_back) > 0:
                what = f"calculation {name}: started {count} times, died {died} times, taken back {taken_back} times"
                self.fault(what, twice=surplus)
        again = ask(self.ledger, "select count(*) from calculations where attempt > 1")[0][0]
        if again:
            self.fault(f"{again} calculations were recorded again with another result", twice=again)
        for difference in differences(self.undisturbed, self.ledger):
            self.fault(difference)


def can_be_met(victim: str, stage: str) -> bool:
    """Whether somebody is at work in a stage."""
    only = {DASK_WORKER: "screening", DASK_SCHEDULER: "screening", DFT: "DFT"}
    return only.get(victim, stage) == stage


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, be it that nobody has asked yet how."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
