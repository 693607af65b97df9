"""The table of ends: that it is obeyed, and that deploy/README.md shows the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flows.dft import attempts, outcomes
from flows.dft.executor import Seen, Task
from flows.dft.job_script import BEGINS
from flows.dft.run import folder_of, run_jobs
from materials.errors import DFTError, JobRefused, SchedulerUnreachable
from models.dft.base import DFTResult, Limits
from tests.peers.quick_dft import Quick, job


def test_the_readme_shows_the_same_table(root: Path) -> None:
    text = (root / "deploy" / "README.md").read_text()
    section = text.split("\n## What the end of a DFT job means\n", 1)[1].split("\n## ", 1)[0]
    assert outcomes.as_markdown() in section


def test_each_row_is_reached() -> None:
    """From what a scheduler says and a folder holds; only the scheduler's silence is told by an exception."""

    def end(word: str, status: str | None = None, code: int | None = None, **found: Any) -> outcomes.End:
        result = None if status is None else DFTResult(status=status, message=found.pop("message", ""))  # type: ignore[arg-type]
        seen = Seen(word=word, exit_code=code, had_node=found.pop("had_node", True))  # type: ignore[arg-type]
        return outcomes.end_of(seen, outcomes.Found(result=result, **found))

    rows = [
        (end("ended", "converged", 0), outcomes.RESULT),
        (end("ended", "max_steps", 11), outcomes.RESULT),
        (end("ended", "failed", 14), outcomes.RESULT),
        (end("ended", "scf_not_converged", 10), outcomes.SCF),
        (end("ended", "walltime", 12), outcomes.TIMEOUT),
        (end("timeout"), outcomes.TIMEOUT),
        (end("ended", "out_of_memory", 13), outcomes.MEMORY),
        (end("memory"), outcomes.MEMORY),
        (end("ended", code=-9, without="out_of_memory"), outcomes.MEMORY),
        (end("node"), outcomes.NODE),
        (end("preempted"), outcomes.PREEMPTED),
        (end("unknown"), outcomes.UNKNOWN),
        (end("cancelled", taken_back=True), outcomes.STOPPED),
        (end("ended", code=20, taken_back=True), outcomes.STOPPED),
        (end("unknown", taken_back=True), outcomes.STOPPED),
        (end("ended", code=21, occupied=True), outcomes.OCCUPIED),
        (end("cancelled"), outcomes.CANCELLED),
        (end("cancelled", had_node=False, began=False), outcomes.CANCELLED),
        (end("cancelled", began=False), outcomes.LAUNCH),
        (end("ended", code=1, began=False), outcomes.LAUNCH),
        (end("ended", code=-9), outcomes.KILLED),
        (end("ended", code=137), outcomes.KILLED),
        (end("ended", code=20), outcomes.KILLED),
        (end("ended", code=22, log="pw.x ended with exit code -9 and without a result"), outcomes.KILLED),
        (end("ended", code=22, log="pw.x ended with exit code -11 and without a result"), outcomes.CRASH),
        (end("ended", code=1, without="out_of_memory", crowded=True), outcomes.CROWDED),
        (end("ended", code=-11), outcomes.CRASH),
        (end("ended", code=None), outcomes.CRASH),
        (end("refused"), outcomes.REFUSED),
        (end("ended", code=1, log="assay: a set-up line failed"), outcomes.SET_UP),
        (end("ended", code=127), outcomes.SET_UP),
        (end("ended", code=1, log="OSError: [Errno 28] No space left on device"), outcomes.DISK),
        (end("ended", "failed", 14, message="OSError: Disk quota exceeded"), outcomes.DISK),
        (end("ended", "failed", 14, message="OSError: [Errno 116] Stale file handle"), outcomes.DISK),
        (end("ended", code=1, log="forrtl: Input/output error"), outcomes.DISK),
        (end("ended", code=0), outcomes.NO_RESULT),
    ]
    assert [got.name for got, _ in rows] == [meant.name for _, meant in rows]
    assert {*(meant for _, meant in rows), outcomes.UNREACHABLE} == set(outcomes.ENDS)


def test_the_schedulers_word_comes_before_what_a_code_writes_when_it_is_told_to_end() -> None:
    failed = outcomes.Found(result=DFTResult(status="failed", message="terminated by signal 15"))
    assert outcomes.end_of(Seen(word="cancelled"), failed) is outcomes.CANCELLED
    assert outcomes.end_of(Seen(word="timeout"), failed) is outcomes.TIMEOUT
    assert outcomes.end_of(Seen(word="preempted"), failed) is outcomes.PREEMPTED
    good = outcomes.Found(result=DFTResult(status="converged"))
    assert outcomes.end_of(Seen(word="cancelled"), good) is outcomes.RESULT


class Played:
    """A queue that says what the test wants it to, attempt by attempt; an exception is raised."""

    kind = "slurm"
    pause_s = (0.0, 0.0)
    late_s = 0.0
    leaves_jobs = True

    def __init__(self, *words: Any) -> None:
        self.words = list(words)
        self.sent: list[Task] = []
        self.taken_back: list[str] = []
        self.known: dict[str, Seen] = {}

    def submit(self, task: Task, lock: int) -> None:
        said = self.words.pop(0)
        if isinstance(said, Exception):
            raise said
        self.sent.append(task)
        (task.folder / attempts.LOG).write_text(BEGINS.format(name=task.name) + "\n")
        if said == "converged":
            Quick(Path()).give_up(task.folder, DFTResult(status="converged"))
            said = Seen(word="ended", exit_code=0)
        self.known[task.name] = said if isinstance(said, Seen) else Seen(word=said, how=f"Slurm says {said}")

    def look(self, tasks: Sequence[Task]) -> Mapping[str, Seen]:
        if self.words and isinstance(self.words[0], SchedulerUnreachable):
            raise self.words.pop(0)
        return {task.name: self.known.get(task.name, Seen(word="unknown")) for task in tasks}

    def cancel(self, tasks: Sequence[Task]) -> None:
        self.taken_back += [task.name for task in tasks]


def from_outside(result: DFTResult) -> bool:
    return bool(result.properties.get("from_outside"))


def play(
    folder: Path, *words: Any, said: list[str] | None = None, retry: bool = False
) -> tuple[Played, DFTResult, list[attempts.Attempt]]:
    queue = Played(*words)
    results: list[DFTResult] = []
    run_jobs(
        [job("good", "k")],
        Quick(Path()),
        runs_dir=folder,
        concurrent=1,
        limits=Limits(walltime_s=60.0, memory_gib=1.0),
        most=Limits(walltime_s=100.0, memory_gib=4.0),
        executor=queue,
        on_result=lambda _, result: results.append(result),
        stop=Event(),
        say=(said if said is not None else []).append,
        retry=retry,
    )
    (result,) = results
    return queue, result, attempts.read(folder_of(folder, "k"))


def test_limits_double_up_to_the_maximum_and_stay_doubled(tmp_path: Path) -> None:
    queue, result, tries = play(tmp_path, "memory", "timeout", "memory", "node", "timeout")
    assert [(task.limits.walltime_s, task.limits.memory_gib) for task in queue.sent] == [
        (60.0, 1.0),
        (60.0, 2.0),
        (100.0, 2.0),
        (100.0, 4.0),
        (100.0, 4.0),
    ]
    assert [task.name for task in queue.sent] == [f"dft-k-a{n}" for n in range(1, 6)]
    assert result.status == "walltime"
    assert result.properties["walltime_s"] == 100.0
    assert tries[-1].end == "timeout"


@pytest.mark.parametrize(
    ("word", "most", "status"),
    [
        (Seen(word="ended", how="by SIGSEGV", exit_code=-11), outcomes.ATTEMPTS, "crashed"),
        ("cancelled", 1, "cancelled"),
    ],
)
def test_its_own_chances_are_counted_for_each_end(tmp_path: Path, word: Any, most: int, status: str) -> None:
    queue, result, tries = play(tmp_path, *[word] * most)
    assert result.status == status
    assert len(queue.sent) == len(tries) == most
    again = play(tmp_path)  # for good: nothing is sent
    assert again[1].status == status
    assert not again[0].sent
    assert not from_outside(again[1])
    queue, result, tries = (
        play(tmp_path, word, "converged", retry=True) if most > 1 else play(tmp_path, "converged", retry=True)
    )
    assert result.status == "converged"
    assert [attempt.number for attempt in tries] == list(range(1, most + len(queue.sent) + 1))


@pytest.mark.parametrize(
    ("word", "most"),
    [
        ("node", outcomes.MANY),
        ("preempted", outcomes.MANY),
        (Seen(word="ended", how="by SIGKILL", exit_code=-9), outcomes.KILLS),
        (Seen(word="ended", how="with exit code 143", exit_code=143), outcomes.KILLS),
    ],
)
def test_what_befell_it_is_never_final(tmp_path: Path, word: Any, most: int) -> None:
    for run in (1, 2):  # in the second one all chances are there again
        queue, result, tries = play(tmp_path, *[word] * most)
        assert (result.status, from_outside(result)) == ("crashed", True)
        assert len(queue.sent) == most
        assert len(tries) == run * most
    _, result, _ = play(tmp_path, word, "converged")
    assert (result.status, from_outside(result)) == ("converged", False)


def test_three_kills_harm_no_result(tmp_path: Path) -> None:
    kill = Seen(word="ended", how="by SIGKILL", exit_code=-9)
    queue, result, _ = play(tmp_path, kill, kill, kill, "converged")
    assert result.status == "converged"
    assert len(queue.sent) == 4


def test_what_befell_it_does_not_count_as_its_crash(tmp_path: Path) -> None:
    crash = Seen(word="ended", exit_code=-11)
    queue, result, _ = play(tmp_path, crash, "node", crash, "preempted", "unknown", "converged")
    assert result.status == "converged"
    assert len(queue.sent) == 6


def test_a_silent_scheduler_is_waited_for_and_that_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    silence = [SchedulerUnreachable("connect failure")] * 3
    queue, result, _ = play(tmp_path, *silence, *silence, "converged", said=said)
    assert result.status == "converged"
    assert len(queue.sent) == 1
    assert said == [
        "The scheduler is unreachable: wait, change nothing (connect failure)",
        "The scheduler answers again",
    ]


def test_a_submission_that_was_not_answered_is_looked_up_and_not_sent_again(tmp_path: Path) -> None:
    class Deaf(Played):
        def submit(self, task: Task, lock: int) -> None:
            super().submit(task, lock)
            if len(self.sent) == 1:
                raise SchedulerUnreachable("sbatch gave no answer")

    queue = Deaf("converged")
    results: list[DFTResult] = []
    run_jobs(
        [job("good", "k")],
        Quick(Path()),
        runs_dir=tmp_path,
        concurrent=1,
        limits=Limits(),
        executor=queue,
        on_result=lambda _, result: results.append(result),
        stop=Event(),
    )
    assert [result.status for result in results] == ["converged"]
    assert len(queue.sent) == 1


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ([JobRefused("invalid partition")], "queue, account, options"),
        (["refused"], "max_walltime_s"),
        ([Seen(word="ended", exit_code=0)], "the same disk"),
        ([Seen(word="ended", exit_code=127)], "container"),
    ],
)
def test_trouble_that_is_everybodys_stops_the_sending(tmp_path: Path, words: list[Any], mend: str) -> None:
    with pytest.raises(DFTError, match=mend) as caught:
        play(tmp_path, *words)
    assert str(folder_of(tmp_path, "k")) in str(caught.value)
    _, result, tries = play(tmp_path, "converged")
    assert result.status == "converged"
    assert [attempt.number for attempt in tries] == [1, 2]


def test_a_hopeless_job_is_taken_back(tmp_path: Path) -> None:
    queue = Played("refused")
    with pytest.raises(DFTError):
        run_jobs(
            [job("good", "k")],
            Quick(Path()),
            runs_dir=tmp_path,
            concurrent=1,
            limits=Limits(),
            executor=queue,
            on_result=lambda *_: None,
            stop=Event(),
        )
    assert queue.taken_back == ["dft-k-a1"]


def test_a_remembered_job_of_a_removed_folder_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    queue = Played("converged")
    queue.known["dft-k-a1"] = Seen(word="cancelled")
    results: list[DFTResult] = []
    run_jobs(
        [job("good", "k")],
        Quick(Path()),
        runs_dir=tmp_path,
        concurrent=1,
        limits=Limits(),
        executor=queue,
        on_result=lambda _, result: results.append(result),
        stop=Event(),
    )
    assert [task.name for task in queue.sent] == ["dft-k-a2"]
    assert results[0].status == "converged"
