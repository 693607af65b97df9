"""Pool of Dask workers as a stage uses it: workers come and go, and it fails in time if none will come any more."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from materials.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

Answer = TypeVar("Answer")

LOOK_S = 1.0  # between two looks at the scheduler
SILENT_S = 60.0  # a scheduler that answers nothing for so long has died
STUCK_S = 5.0  # a task that no worker can run is told after so long


class Supply(Protocol):
    """Where workers come from.

    Attributes:
        most: As many workers as there may be; None for as many as there are.
        ours_alone: A worker runs one task of ours at a time, and seldom anybody but that task ends it.
        ahead: A worker takes no second task while it has one, so that one may wait for each.
    """

    most: int | None
    ours_alone: bool
    ahead: bool

    def title(self, present: int) -> str:
        """Name the workers for a person, as in "on 2 workers"."""
        ...

    def check(self, present: int, paused: int, without_s: float) -> None:
        """Say how the wait for workers goes, and judge whether it is worth going on.

        Args:
            present: Workers that take tasks.
            paused: Workers that don't, for want of memory.
            without_s: Seconds for which none has taken any.

        Raises:
            ClusterError: None will come.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Seen:
    running: int  # workers that take tasks
    paused: int  # workers that don't, for want of memory
    unrunnable: list[str]  # our tasks that wait for what no worker has
    running_on: dict[str, str]  # where our tasks are


class WorkerPool:
    """Workers behind one Dask client.

    Attributes:
        client: Takes tasks.
        ours_alone: See `Supply`.
    """

    def __init__(self, client: Client, supply: Supply) -> None:
        self.client, self._supply, self.ours_alone = client, supply, supply.ours_alone
        self._looked = self._answered = self._inhabited = time.monotonic()
        self._present = 0
        self._worker_s = self._s = 0.0
        self._stuck_since: dict[Hashable, float] = {}
        self._seen_on: dict[Hashable, list[str]] = defaultdict(list)
        self._look()

    @property
    def present(self) -> int:
        """Workers that can take tasks now."""
        return self._present

    @property
    def most(self) -> int:
        """Workers that there may be."""
        return max(self._supply.most or self._present, 1)

    @property
    def window(self) -> int:
        """Tasks to have under way.

        One that waits for each worker that is there, and one for each that there may be: a cluster that grows with
        its work grows to its full size only if it sees so much.
        """
        return self.most + (min(self._present, self.most) if self._supply.ahead else 0)

    def title(self) -> str:
        """Name the workers for a person."""
        return self._supply.title(self._present)

    def mean(self) -> float:
        """Workers that were there on average, while any was there."""
        return self._worker_s / self._s if self._s else 1.0

    def lives(self, key: Hashable) -> int:
        """Number of workers that a task has been on: more than one if workers ended before it did."""
        return len(self._seen_on[key])

    def forget(self, key: Hashable) -> None:
        """Drop what is known of a task that has ended."""
        self._seen_on.pop(key, None)
        self._stuck_since.pop(key, None)

    def check(self, *, at_once: bool = False) -> None:
        """See who is there; called often, it looks about once a second.

        Args:
            at_once: Look even if it was done just now.

        Raises:
            ClusterError: No worker will come any more, or none can do what was sent.
        """
        if at_once or time.monotonic() - self._looked >= LOOK_S:
            self._look()

    def wait(self) -> None:
        """Wait for the first worker.

        Raises:
            ClusterError: None will come.
        """
        while not self._present:
            time.sleep(0.1)
            self.check()

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Run a function on one worker, and wait for what it answers.

        Raises:
            ClusterError: No worker can.
        """
        future = self.client.submit(function, *arguments, pure=False)
        try:
            while not future.done():
                time.sleep(0.1)
                self.check()
            answer: Answer = future.result()
            return answer
        finally:
            future.release()

    def _look(self) -> None:
        before, self._looked = self._looked, time.monotonic()
        seen = self._ask()
        now = time.monotonic()
        if seen is None:
            if now - self._answered > SILENT_S:
                raise ClusterError(f"The Dask scheduler has not answered for {SILENT_S:g} s. {_AGAIN}")
            return
        self._answered, self._present = now, seen.running
        if seen.running:
            self._inhabited = now
            self._worker_s += seen.running * (now - before)
            self._s += now - before
        for key, address in seen.running_on.items():
            if address not in self._seen_on[key]:
                self._seen_on[key].append(address)
        self._supply.check(seen.running, seen.paused, now - self._inhabited)
        self._check_stuck(seen, now)

    def _check_stuck(self, seen: _Seen, now: float) -> None:
        """A task that asks for what no worker has would wait for ever, and Dask says nothing."""
        waiting = seen.unrunnable if seen.running else []
        self._stuck_since = {key: self._stuck_since.get(key, now) for key in waiting}
        for key, since in self._stuck_since.items():
            if now - since > STUCK_S:
                raise ClusterError(
                    f"None of the {seen.running} workers can run the task {key}: it asks for a resource or a host that"
                    " none of them has; start workers that have it."
                )

    def _ask(self) -> _Seen | None:
        client = self.client
        if client.status not in ("running", "newly-connected"):
            raise ClusterError(f"The connection to the Dask scheduler is lost: it died, or was ended. {_AGAIN}")
        try:
            answer: dict[str, Any] = client.run_on_scheduler(_seen_by(), client=client.id, callback_timeout=10)
        except (OSError, TimeoutError):
            return None
        return _Seen(**answer)


_AGAIN = "What had ended is in the ledger: start a scheduler and workers, and the same command goes on from there."


def _seen_by() -> Any:
    # Nested, so that it travels as code: somebody's scheduler may know nothing of us.
    def seen(client: str, dask_scheduler: Any = None) -> dict[str, Any]:
        workers = list(dask_scheduler.workers.values())
        running = [worker for worker in workers if worker.status.name == "running"]
        state = dask_scheduler.clients.get(client)
        wanted = state.wants_what if state is not None else ()
        return {
            "running": len(running),
            "paused": sum(worker.status.name == "paused" for worker in workers),
            "unrunnable": [task.key for task in wanted if task.state == "no-worker"],
            "running_on": {task.key: task.processing_on.address for task in wanted if task.state == "processing"},
        }

    return seen
