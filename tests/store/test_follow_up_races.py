"""Two attempts that succeed at the same time, on two connections: one of them inserts its follow-ups."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError
from garivini.model.job import NewJob
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Success
from garivini.store import outcomes
from garivini.store.database import Database
from garivini.store.statements import Statements
from tests.processes import PATIENCE
from tests.system import upgraded

pytestmark = pytest.mark.servers


@pytest.fixture(params=["mariadb", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.getfixturevalue(request.param).database() as url:
        yield url


@pytest.fixture
def databases(url: str) -> Iterator[tuple[Database, Database]]:
    with closing(upgraded(url)) as one, closing(Database(DatabaseSettings(1, url))) as other:
        other.check()
        yield one, other


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


class Paused:
    """Lets the first transaction stop before its follow-ups, with the deleted rows locked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.fail = False
        insert = outcomes._insert_follow_ups

        def stop(run: Statements, *arguments: Any) -> None:
            if not self.reached.is_set():
                self.reached.set()
                assert self.go_on.wait(PATIENCE)
                if self.fail:
                    raise ConflictError("as planned")
            insert(run, *arguments)

        monkeypatch.setattr(outcomes, "_insert_follow_ups", stop)


def finish(database: Database, jobids: list[int], *new: NewJob) -> set[int]:
    ends = [Success(jobid, None) for jobid in jobids]
    return database.finish(ends, follow_ups={jobids[0]: new})


def begun(threads: ThreadPoolExecutor, database: Database, call: Callable[[], set[int]]) -> Future[set[int]]:
    """Start a call, and return when its transaction has begun."""
    began = threading.Event()
    begin = database.connections.dialect.begin_transaction

    def note(cursor: Any) -> Any:
        result = begin(cursor)
        began.set()
        return result

    database.connections.dialect.begin_transaction = note  # type: ignore[method-assign]
    found = threads.submit(call)
    assert began.wait(PATIENCE)
    return found


@pytest.mark.parametrize("ids", [1, 3])
def test_finish_by_two_attempts_inserts_the_follow_ups_of_one(
    databases: tuple[Database, Database],
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    ids: int,
) -> None:
    one, other = databases
    jobids = [answer.jobid for answer in one.insert([new_job("f", b"")] * ids)]
    pause = Paused(monkeypatch)
    first = threads.submit(finish, one, jobids, new_job("next", b"one"))
    assert pause.reached.wait(PATIENCE)
    second = begun(threads, other, lambda: finish(other, jobids, new_job("next", b"other")))
    pause.go_on.set()
    assert first.result(PATIENCE) == set(jobids)
    assert second.result(PATIENCE) == set()
    assert [job.arg for job in one.jobs()] == [b"one"]


def test_finish_that_rolls_back_leaves_the_follow_ups_to_the_other_attempt(
    databases: tuple[Database, Database], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = databases
    jobids = [answer.jobid for answer in one.insert([new_job("f", b"")])]
    pause = Paused(monkeypatch)
    pause.fail = True
    first = threads.submit(finish, one, jobids, new_job("next", b"one"))
    assert pause.reached.wait(PATIENCE)
    second = begun(threads, other, lambda: finish(other, jobids, new_job("next", b"other")))
    pause.go_on.set()
    with pytest.raises(ConflictError):
        first.result(PATIENCE)
    assert second.result(PATIENCE) == set(jobids)
    assert [job.arg for job in one.jobs()] == [b"other"]
