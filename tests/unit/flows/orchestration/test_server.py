"""`assay up` hears when it is told to stop, whatever goes on just then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from flows.orchestration import server as up


class InFinalizer:
    """Is told to stop where Python lets no exception out."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_nobody_could_raise_is_heard_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = SimpleNamespace(poll=lambda: None)

    @contextmanager
    def process(*_: object) -> Iterator[SimpleNamespace]:
        yield alive

    monkeypatch.setattr(up, "_process", process)
    monkeypatch.setattr(up, "_answers", lambda _: False)
    said: list[str] = []
    with up._told_to_stop(said.append) as told:
        InFinalizer()
        assert told == [signal.SIGTERM]
        with pytest.raises(up._Stopped):
            up._work(None, said.append, told)
        with pytest.raises(up._Stopped):
            up._wait_for("http://127.0.0.1:9/api", alive, told)  # type: ignore[arg-type]
    assert len(said) == 1
