"""Watcher of DFT jobs: submits and checks them until each has a result, by the table of outcomes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

from flows.dft import attempts as book
from flows.dft import outcomes
from flows.dft.calculation import Entry, Job
from flows.dft.executor import ALIVE, Executor, Seen
from materials.errors import DFTError, JobRefused, SchedulerUnreachable
from models.dft.base import DFTCode, DFTResult, Limits
from models.dft.calculation_record import from_outside, with_limits

REPORT_S = 60.0  # between two lines on how many wait and run
TICK_S = 1.0  # between two glances at the folders, which cost the scheduler nothing


@dataclass(kw_only=True)
class Watch:
    """Calculations under way. For the arguments see `flows.dft.run.run_jobs`."""

    code: DFTCode
    executor: Executor
    limits: Limits
    most: Limits
    on_result: Callable[[Job, DFTResult], None]
    stop: threading.Event
    say: Callable[[str], None]
    retry: bool = False
    entries: list[Entry] = field(default_factory=list)
    results: list[tuple[Job, DFTResult]] = field(default_factory=list)  # not handed over yet
    happened: bool = True  # anything in the last pass
    silent: bool = False  # the scheduler does not answer, and this was said
    counted: tuple[int, int] = (0, 0)  # jobs that run and wait, as they were last told
    counted_at: float = field(default_factory=time.monotonic)
    pause_s: float = 0.0

    def run(self, queue: list[Entry], concurrent: int) -> None:
        """Bring all calculations to their ends.

        Raises:
            DFTError: No more can be sent.
        """
        # What an earlier run has sent comes first: it has its place already.
        for entry in queue:
            with self._on_disk(entry):
                entry.begin(self.retry)
        queue.sort(key=lambda entry: not entry.is_open())
        take_back = True
        try:
            while (queue or self.entries) and not self.stop.is_set():
                try:
                    while queue and len(self.entries) < concurrent and not self.stop.is_set():
                        self._take(queue.pop(0))
                    if self.entries:
                        self._pass()
                finally:
                    self._hand_over()
                if self.entries:
                    self._rest()
        except DFTError:
            take_back = False
            raise
        except Exception:
            take_back = not self.executor.leaves_jobs
            raise
        finally:
            if take_back:
                self._take_back()

    def _take(self, entry: Entry) -> None:
        """Deliver what is there already; watch the rest."""
        with self._on_disk(entry):
            entry.read()
            result = self._settled(entry)
            # Of one that may have been told to end, the scheduler's word comes first.
            if result is not None and (result.status == "converged" or not entry.is_open()):
                self._deliver(entry, result)
            else:
                self.entries.append(entry)

    def _settled(self, entry: Entry) -> DFTResult | None:
        """A result that no other attempt would better."""
        if not self.code.finished(entry.folder, self.most):
            return None
        result = self.code.parse(entry.folder)
        if entry.anew and result.status != "converged":
            return None
        return None if result.status == "failed" and outcomes.lacks_space(result.message) else result

    def _pass(self) -> None:
        """Look at all that is under way, in one query; send what is to be sent, judge what has ended."""
        self.happened = False
        with ExitStack() as locks:
            ready: dict[Entry, int] = {}
            for entry in self.entries:
                if not entry.sent:
                    with self._on_disk(entry):
                        lock = locks.enter_context(book.sending(entry.folder))
                        if lock is not None:
                            ready[entry] = lock
                            entry.prepare(self.executor.kind, self.limits, self.most)
            watched = [entry for entry in self.entries if entry.sent or entry in ready]
            try:
                seen = self.executor.look([entry.task(self.limits) for entry in watched])
                said = {entry: seen[entry.name] for entry in watched}
                self._report([one.word for one in said.values()])
                for entry, one in said.items():
                    if entry.sent and one.word not in ALIVE:
                        with self._on_disk(entry):
                            self._judge(entry, one)
                for entry, lock in ready.items():
                    with self._on_disk(entry):
                        self._take_up(entry, said[entry], lock)
                self._say_it_answers()
            except SchedulerUnreachable as error:
                self._say_it_is_silent(error)

    def _take_up(self, entry: Entry, seen: Seen, lock: int) -> None:
        """Watch an attempt that is under way, judge one that has ended, send one that never was."""
        attempt = entry.attempt
        if seen.word == "ending":
            return  # too late to take it up, too early to send another
        if seen.word in ALIVE:
            entry.sent = True
            attempt.taken_back, attempt.sent_at = False, attempt.sent_at or time.time()
            entry.write()
        elif seen.word != "unknown" and entry.is_new:
            attempt.number += 1  # somebody removed the folder of a job that is still remembered
        elif seen.word != "unknown" or attempt.sent_at is not None or entry.began():
            entry.sent = True
            self._judge(entry, seen)
        # In this order: whoever worked here may have written its result and gone since we looked.
        elif self.code.worker(entry.folder) is None and not self.stop.is_set():
            if (result := self._settled(entry)) is not None:
                self._deliver(entry, result)
            else:
                self._send(entry, lock)

    def _send(self, entry: Entry, lock: int) -> None:
        task = entry.task(self.limits)
        entry.attempt.taken_back = False
        entry.write()
        book.put_log_aside(entry.folder, entry.attempt.number)
        self.code.write_inputs(entry.folder, entry.job.structure, entry.job.settings, task.limits)
        entry.anew = False
        try:
            self.executor.submit(task, lock)
        except JobRefused as error:
            self._judge(entry, Seen(word="refused", how=str(error)))
            return
        entry.attempt.sent_at = time.time()
        entry.sent = self.happened = True
        entry.write()

    def _judge(self, entry: Entry, seen: Seen) -> None:
        """Do what the table of ends says."""
        now = book.read(entry.folder)
        if len(now) != len(entry.attempts):
            entry.sent = False  # another run was faster to judge it, and went on
            return
        entry.attempts = now
        task = entry.task(self.limits)
        crowded = self.executor.kind == "local" and sum(other.sent for other in self.entries) > 1
        found = entry.found(self.code, task.limits, crowded=crowded)
        end = outcomes.end_of(seen, found)
        if end in outcomes.WITHOUT_A_RESULT and self._may_be_late(entry):
            return
        self.happened = True
        spent = end.then == "again" and entry.is_spent(end, self.most)
        if end.then == "stop" or (spent and end.status is None):
            entry.close(end, seen.how)
            if end is outcomes.REFUSED:
                with suppress(SchedulerUnreachable):
                    self.executor.cancel([task])  # it may wait in the queue
            self._stop_sending(entry, end, seen.how, found.log)
        elif end.then == "deliver" or spent:
            self._give_up(entry, end, seen, found)
        else:
            entry.close(end, seen.how)
            entry.sent = False

    def _may_be_late(self, entry: Entry) -> bool:
        """Whether a result may have been written that does not show here yet."""
        now = time.monotonic()
        entry.missed_since = entry.missed_since or now
        return now - entry.missed_since < self.executor.late_s

    def _give_up(self, entry: Entry, end: outcomes.End, seen: Seen, found: outcomes.Found) -> None:
        """Deliver for good; what the folder does not say yet is written there."""
        entry.close(end, seen.how)
        result = found.result
        if result is None or (end.status is not None and result.status != end.status):
            assert end.status is not None  # only a result is delivered without
            times = entry.count(end)
            words = f"{end.status} {times} times, the last time" if times > 1 else f"{end.status}:"
            took = time.time() - (entry.attempt.sent_at or time.time())
            given_up = DFTResult(status=end.status, message=f"{words} {seen.how}", wall_time_s=took)
            self.code.give_up(entry.folder, given_up)
            result = self.code.parse(entry.folder)
        self._deliver(entry, result)

    def _deliver(self, entry: Entry, result: DFTResult) -> None:
        if entry.is_open() and entry.attempt.sent_at is not None:
            entry.close(outcomes.RESULT, "")
        if entry in self.entries:
            self.entries.remove(entry)
        self.happened = True
        if entry.attempts:
            result = with_limits(result, entry.task(self.limits).limits)
            if entry.attempt.end in outcomes.OUTSIDE and result.status != "converged":
                result = from_outside(result)
        self.results.append((entry.job, result))

    def _hand_over(self) -> None:
        # After the pass: what goes wrong with the caller is no trouble with a folder or a scheduler.
        while self.results:
            self.on_result(*self.results.pop(0))

    def _stop_sending(self, entry: Entry, end: outcomes.End, how: str, log: str = "") -> NoReturn:
        left = sum(other.sent for other in self.entries if other is not entry)
        lines = [
            f"{entry.folder}: {end.name}: {how}",
            end.mend,
            f"No more is sent; {left} that wait or run are left alone. The same command goes on from there.",
            log,
        ]
        raise DFTError("\n".join(line for line in lines if line))

    @contextmanager
    def _on_disk(self, entry: Entry) -> Iterator[None]:
        """Turn trouble with a calculation's folder into the end that it is."""
        try:
            yield
        except OSError as error:
            self._stop_sending(entry, outcomes.DISK, str(error))

    def _rest(self) -> None:
        """Wait until it is time to look again: soon if something happened, or if a result shows in a folder."""
        least, longest = self.executor.pause_s
        self.pause_s = least if self.happened else min(1.5 * self.pause_s, longest)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self.pause_s:
            if self.stop.wait(min(TICK_S, self.pause_s - passed)):
                return
            if passed >= least and any(self._has_result(entry) for entry in self.entries):
                return

    def _has_result(self, entry: Entry) -> bool:
        return entry.sent and self.code.finished(entry.folder, entry.task(self.limits).limits)

    def _take_back(self) -> None:
        """End what is under way, and write down that it was us."""
        # Also what was about to be sent: nobody may have answered, and yet it was.
        under_way = [entry for entry in self.entries if entry.is_open() and not entry.is_new]
        for entry in under_way:
            with suppress(OSError):
                entry.attempts = book.read(entry.folder) or entry.attempts
                entry.attempt.taken_back = True
                entry.write()
        tasks = [entry.task(self.limits) for entry in under_way]
        try:
            self.executor.cancel(tasks)
        except SchedulerUnreachable as error:
            names = ", ".join(task.name for task in tasks)
            self.say(f"The scheduler is {outcomes.UNREACHABLE.name} ({error}), so these stay in its queue: {names}")

    def _report(self, words: Sequence[str]) -> None:
        """Say what a queue makes of the jobs, now and then."""
        counts = (words.count("running"), words.count("waiting"))
        if self.executor.kind == "local" or counts == self.counted or time.monotonic() - self.counted_at < REPORT_S:
            return
        self.say(f"  DFT jobs: {counts[0]} running, {counts[1]} waiting in the queue")
        self.counted, self.counted_at = counts, time.monotonic()

    def _say_it_is_silent(self, error: SchedulerUnreachable) -> None:
        if not self.silent:
            done = outcomes.UNREACHABLE.done().partition(".")[0]
            self.say(f"The scheduler is {outcomes.UNREACHABLE.name}: {done} ({error})")
        self.silent = True

    def _say_it_answers(self) -> None:
        if self.silent:
            self.say("The scheduler answers again")
        self.silent = False
