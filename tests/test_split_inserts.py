"""Inserts that are stored together: if a batch fails, each caller gets the truth about his own job."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from garivini import AsyncClient, Client, Inserted, State
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from garivini.model.job import NewJob
from garivini.model.new_jobs import new_job
from garivini.store.dialects.sqlite import SQLite
from garivini.store.split_inserts import SplitInserts
from tests import servers
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.sql_servers import SERVERS, SQLServer
from tests.system import System, system, upgraded
from tests.test_injector import Caller, counted


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a locked SQLite file be given up soon, but not for a commit of ours that waits for the disk."""
    monkeypatch.setattr(SQLite, "busy_timeout", 0.5)
    monkeypatch.setattr(SQLite, "prepare", lambda _, new: new.execute("PRAGMA synchronous = OFF"))


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with its tables, of each kind."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
        return
    server: SQLServer = request.getfixturevalue(request.param)
    with server.database() as url:
        upgraded(url).close()
        yield url


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold the write lock of an SQLite file."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def driven(url: str) -> str:
    """Return a URL as SQLAlchemy takes it."""
    return url.replace("postgresql:", "postgresql+psycopg:").replace("mysql:", "mysql+pymysql:")


def refuse(url: str) -> None:
    """Let the database itself refuse each row whose coalesce key is "wrong"."""
    engine = create_engine(driven(url))
    with engine.begin() as connection:
        name = engine.dialect.identifier_preparer.quote("coalesce")
        connection.exec_driver_sql(
            "CREATE TRIGGER wrong BEFORE INSERT ON job WHEN NEW.\"coalesce\" = 'wrong' "
            "BEGIN SELECT RAISE(ABORT, 'wrong'); END"
            if engine.dialect.name == "sqlite"
            else f"ALTER TABLE job ADD CONSTRAINT wrong CHECK ({name} <> 'wrong')"
        )
    engine.dispose()


def key_of(client: Client, dbid: int, other: str = "") -> str:
    """Return a key that lives in a database."""
    keys = (f"key {number}" for number in range(1000))
    return next(key for key in keys if key != other and client.shards.home("f", key).dbid == dbid)


def stored(url: str | list[str]) -> dict[tuple[int, int], bytes]:
    """Return the argument of each job that is there, by id."""
    with Client(url) as client:
        return {(job.jobid, job.dbid): job.arg for job in client.list_jobs(limit=100_000)}


async def together(client: AsyncClient, *jobs: dict[str, Any]) -> list[Any]:
    return await asyncio.gather(
        *(
            client.insert_job(**{"funcname": "f", "arg": str(number), **job})
            for number, job in enumerate(jobs)
        ),
        return_exceptions=True,
    )


# ---- single inserts of an AsyncClient


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
async def test_insert_job_without_a_key_is_answered_while_another_database_is_locked(tmp_path: Path) -> None:
    urls = [sqlite_url(tmp_path, "1.db"), sqlite_url(tmp_path, "2.db")]

    with Client(urls) as client:
        client.list_jobs()  # gives each database its id
        keys = [key_of(client, 1), key_of(client, 2)]
        client.insert_jobs([["f", f"{key} x", None, ""] for key in keys])
    async with AsyncClient(urls) as client:
        with locked(urls[1]):
            answers = await together(
                client, {}, {"unique": keys[1]}, {}, {"unique": keys[0]}, *({} for _ in range(20))
            )
    found = stored(urls)
    for number, answer in enumerate(answers):
        if number == 1:
            assert isinstance(answer, ConflictError)
        else:
            assert found[tuple(answer)] == b"%d" % number
    assert sorted(arg for arg in found.values() if arg) == sorted(
        b"%d" % number for number in range(len(answers)) if number != 1
    )


@pytest.mark.parametrize("keyed", [False, True], ids=["keyless", "keyed"])
def test_insert_job_of_a_row_that_the_database_refuses_fails_alone(url: str, *, keyed: bool) -> None:
    refuse(url)
    wrong = {7, 8, 30}

    async def scenario() -> list[Any]:
        async with AsyncClient(url) as client:
            return await together(
                client,
                *(
                    {
                        "coalesce": "wrong" if number in wrong else "right",
                        "unique": f"key {number}" if keyed else None,
                    }
                    for number in range(50)
                ),
            )

    answers = asyncio.run(scenario())
    found = stored(url)
    for number, answer in enumerate(answers):
        if number in wrong:
            assert isinstance(answer, RefusedError)
        else:
            assert found[tuple(answer)] == b"%d" % number
    assert len(found) == 47


async def test_insert_job_of_an_argument_that_is_too_large_fails_alone_with_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    monkeypatch.setattr(SQLite, "statement_bytes", 1000)
    monkeypatch.setattr(SQLite, "statement_setting", "limit")

    async with AsyncClient(url) as client:
        answers = await together(
            client,
            {},
            {"funcname": "large", "arg": "x" * 2000},
            {},
            {"funcname": "huge", "arg": "x" * 3000},
        )
        for answer, text in (
            (answers[1], "one for large has 2000"),
            (answers[3], "one for huge has 3000"),
        ):
            assert isinstance(answer, UsageError)
            assert text in str(answer)
        assert stored(url) == {tuple(answers[0]): b"0", tuple(answers[2]): b"2"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERVERS)
def test_insert_job_beside_a_key_that_a_transaction_has_locked_is_stored(
    request: pytest.FixtureRequest, kind: str
) -> None:
    server: SQLServer = request.getfixturevalue(kind)
    with server.database() as url:
        upgraded(url).close()
        engine = create_engine(driven(url))

        async def scenario() -> list[Any]:
            with engine.connect() as connection, Client(url) as blocking:
                blocking.insert_job("f", "-", unique="locked", connection=connection)
                async with AsyncClient(url) as client:
                    answers = await together(
                        client,
                        *({"unique": "locked" if number == 5 else f"key {number}"} for number in range(20)),
                        {},
                    )
                connection.rollback()
            return answers

        answers = asyncio.run(scenario())
        engine.dispose()
        found = stored(url)
        assert isinstance(answers[5], ConflictError)
        assert {number for number, answer in enumerate(answers) if isinstance(answer, Exception)} == {5}
        assert {found[tuple(answer)] for number, answer in enumerate(answers) if number != 5} == set(
            found.values()
        )


@pytest.mark.parametrize("kind", SERVERS)
def test_insert_job_of_a_taken_key_does_not_wait_for_a_lock_on_its_row(
    request: pytest.FixtureRequest, kind: str
) -> None:
    server: SQLServer = request.getfixturevalue(kind)
    with server.database() as url:
        upgraded(url).close()
        engine = create_engine(driven(url))
        with Client(url) as client, engine.connect() as connection:
            first = client.insert_job("f", unique="k")
            connection.exec_driver_sql(f"SELECT * FROM job WHERE jobid = {first.jobid} FOR UPDATE")
            second = client.insert_job("f", unique="k")
            assert (second.jobid, second.new, second.state) == (first.jobid, False, State.WAITING)
        engine.dispose()


async def test_insert_job_that_is_cancelled_before_its_batch_is_not_stored_and_the_others_are(
    tmp_path: Path,
) -> None:
    url = sqlite_url(tmp_path)

    async with AsyncClient(url) as client:
        tasks = [asyncio.create_task(client.insert_job("f", str(number))) for number in range(20)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [number in (0, 3) for number in range(20)]
    assert set(stored(url).values()) == {b"%d" % number for number in range(20) if number not in (0, 3)}


async def test_close_that_is_cancelled_leaves_the_inserts_to_their_callers(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)

    client = AsyncClient(url)
    await client.list_jobs()
    with locked(url):
        tasks = [asyncio.create_task(client.insert_job("f", str(number))) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.close()
    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    found = stored(url)
    for number, answer in enumerate(answers):
        if isinstance(answer, Inserted):
            assert found.pop((answer.jobid, answer.dbid)) == b"%d" % number
        else:
            assert isinstance(answer, ConflictError)
    assert not found
    await client.close()


# ---- many jobs of one caller


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_insert_jobs_says_which_jobs_were_stored_and_may_be_called_again(tmp_path: Path) -> None:
    urls = [sqlite_url(tmp_path, "1.db"), sqlite_url(tmp_path, "2.db")]
    with Client(urls) as client:
        client.list_jobs()
        first, second = key_of(client, 1), key_of(client, 2)
        client.insert_jobs([["f", f"{key} {n}", None, "-"] for key in (first, second) for n in range(9)])
        jobs = [["f", None, None, "0"], ["f", first, None, "1"], ["f", second, None, "2"]]
        jobs.append(["f", None, None, "3"])
        with locked(urls[1]), pytest.raises(ConflictError) as caught:
            client.insert_jobs(jobs)
        error = caught.value
        assert list(error.stored) == [1]
        assert list(error.failed) == [2]
        assert stored(urls)[tuple(error.stored[1])] == b"1"  # type: ignore[index]
        assert sorted(arg for arg in stored(urls).values() if arg != b"-") == [b"1"]
        again = client.insert_jobs(jobs)
        assert [answer.new for answer in again] == [True, False, True, True]
        assert sorted(arg for arg in stored(urls).values() if arg != b"-") == [b"0", b"1", b"2", b"3"]


def test_insert_jobs_into_one_database_says_that_none_was_stored(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    refuse(url)
    with Client(url) as client, pytest.raises(RefusedError) as caught:
        client.insert_jobs([{"funcname": "f"}, {"funcname": "f", "coalesce": "wrong"}])
    assert (dict(caught.value.stored), list(caught.value.failed)) == ({}, [0, 1])


# ---- direct dispatch


def test_insert_job_is_answered_whatever_happens_after_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    with servers.embedded() as address, Client(sqlite_url(tmp_path), address) as client:
        monkeypatch.setattr("garivini.client.direct.submission", broken)
        answer = client.insert_job("f")
        assert [job.jobid for job in client.list_jobs()] == [answer.jobid]


# ---- calls of an Injector


async def test_a_call_with_a_row_that_the_database_refuses_fails_alone(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(refuse, queue.url)
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            answers = await asyncio.gather(
                *(caller.inject("f", coalesce="wrong" if number == 9 else "right") for number in range(100)),
                return_exceptions=True,
            )
        failed = [number for number, said in enumerate(answers) if isinstance(said, Exception)]
        assert failed == [9]
        assert "nothing was stored" in str(answers[9])
        assert len(await queue.call(queue.database.jobs, limit=1000)) == 99


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERVERS)
def test_a_call_beside_one_whose_key_is_locked_is_stored(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    server: SQLServer = request.getfixturevalue(kind)

    async def scenario(url: str) -> None:
        async with system(tmp_path, url) as queue:
            queue.start_injector()
            await counted(queue)
            await queue.call(locking, queue)

    def locking(queue: System) -> None:
        engine = create_engine(driven(queue.url))
        with engine.connect() as connection:
            queue.client.insert_job("f", unique="locked", connection=connection)
            answers = asyncio.run(injected(queue.address))
            connection.rollback()
        engine.dispose()
        assert [number for number, said in enumerate(answers) if isinstance(said, Exception)] == [5]
        assert "another transaction was in the way; try again; nothing was stored" in str(answers[5])

    async def injected(address: str) -> Sequence[Any]:
        async with Caller(address) as caller:
            return await asyncio.gather(
                *(caller.inject("f", unique="locked" if n == 5 else f"key {n}") for n in range(20)),
                return_exceptions=True,
            )

    with server.database() as url:
        asyncio.run(scenario(url))


# ---- what is tried


@dataclass(eq=False)
class Call:
    jobs: list[NewJob]


def calls(*sizes: int) -> list[Call]:
    return [Call([new_job("f", b"")] * size) for size in sizes]


def outcome(batch: list[Call], insert: Callable[[Sequence[Call]], Exception | None]) -> tuple[list[Any], int]:
    """Split a batch; return what each call came to, and how many inserts it took."""
    split = SplitInserts(batch)
    found: dict[int, Any] = {}
    tried = 0
    while part := split.next_batch():
        tried += 1
        error = insert(part)
        if error is None:
            found |= {id(call): "stored" for call in part}
            continue
        ends = split.failed(part, error)
        found |= {id(call): answers for call, answers in ends.stored}
        found |= {id(call): error for call, error in ends.failed}
    return [found[id(call)] for call in batch], tried


def test_split_inserts_halves_a_batch_in_which_one_is_refused() -> None:
    batch = calls(*[1] * 1000)
    found, tried = outcome(batch, lambda part: UsageError("no") if batch[700] in part else None)
    assert isinstance(found.pop(700), UsageError)
    assert set(found) == {"stored"}
    assert tried <= 21


@pytest.mark.parametrize("kind", [UnreachableError, OutcomeUnknownError, RuntimeError])
def test_split_inserts_tries_nothing_again_when_the_database_is_away(kind: type[Exception]) -> None:
    found, tried = outcome(calls(1, 2, 1), lambda _: kind("away"))
    assert [type(error) for error in found] == [kind] * 3
    assert tried == 1


def test_split_inserts_gives_up_a_batch_when_many_keys_are_locked() -> None:
    batch = calls(*[1] * 10)
    found, tried = outcome(batch, lambda part: ConflictError("locked") if {*batch[2:]} & {*part} else None)
    assert found[:2] == ["stored", "stored"]
    assert all(isinstance(error, ConflictError) for error in found[2:])
    assert tried == 1 + 2 + 3


def test_split_inserts_waits_once_for_a_database_that_is_locked_as_a_whole() -> None:
    def insert(_: Sequence[Call]) -> Exception:
        error = ConflictError("locked")
        error.whole = True
        return error

    assert outcome(calls(1, 1, 1), insert)[1] == 1


def test_split_inserts_tells_what_is_stored_unknown_and_not_tried_from_each_other() -> None:
    batch = calls(1, 2, 1, 2)
    stored_at = {0: Inserted(1, 1), 1: Inserted(2, 1)}

    def insert(part: Sequence[Call]) -> GariviniError | None:
        if len(part) < len(batch):
            return None
        error = OutcomeUnknownError("lost")
        error.stored, error.failed = stored_at, [2, 3]
        return error

    found, tried = outcome(batch, insert)
    assert found[0] == [Inserted(1, 1)]
    assert dict(found[1].stored) == {0: Inserted(2, 1)}
    assert list(found[1].failed) == [1]
    assert isinstance(found[2], OutcomeUnknownError)
    assert not found[2].stored
    assert found[3] == "stored"
    assert tried == 2
