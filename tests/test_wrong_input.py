"""Whatever one row, payload or call is: everything else in that process and database goes on within seconds.

Wrong ones are generated and put beside good ones, on each database, with all roles at work. What the outcome
of a wrong one is, is said by the tests of its part.
"""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from garivini import Job
from garivini.events import throttle
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.model.limits import Flag
from garivini.model.payload import decode_payload
from garivini.submission import INJECT_JOBS, RUN_QUEUED_JOB
from tests.processes import PATIENCE, SOON
from tests.servers import gearmand
from tests.sql_servers import SERVERS, SQLServer
from tests.system import system

pytestmark = pytest.mark.slow


_R = TypeVar("_R")


class Queue:
    """All roles and a worker at work in a loop of their own, from one example to the next."""

    def __init__(self, folder: Path, url: str | None, address: str | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stop = asyncio.Event()
        self._ran: dict[str, asyncio.Event] = {}
        self._number = 0
        self._ready = threading.Event()
        self._running = asyncio.run_coroutine_threadsafe(self._run(folder, url, address), self._loop)
        self._ready.wait(PATIENCE)
        if self._running.done():
            self._running.result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._running.result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _run(self, folder: Path, url: str | None, address: str | None) -> None:
        async with system(folder, url, address) as self.system:
            queue = self.system

            @queue.worker.function("good")
            async def good(job: Job) -> None:
                if (ran := self._ran.get(job.arg.decode("utf-8", "replace"))) is not None:
                    ran.set()

            def stock(held: aio.Held) -> None:
                arg = decode_payload(held.job.data).arg.decode("utf-8", "replace")
                held.complete()
                if (ran := self._ran.get(arg)) is not None:
                    ran.set()

            link = aio.Worker(queue.address, [b"called"], stock, slots=10)
            linked = asyncio.create_task(link.run())
            queue.start_worker()
            queue.start_queue_runner()
            queue.start_controller()
            queue.start_injector()
            self.client = aio.Client(queue.address, timeout=PATIENCE)
            await queue.seen.wait("gearman.connected", 4)
            self._ready.set()
            await self._stop.wait()
            await self.client.close()
            link.abort()
            await asyncio.gather(linked, return_exceptions=True)

    def call(self, step: Coroutine[Any, Any, _R]) -> _R:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(PATIENCE)

    def submit(self, function: str, payloads: Sequence[bytes]) -> None:
        """Send background jobs."""
        submissions = [Submission(function.encode(), payload) for payload in payloads]
        self.call(self.client.submit(submissions))

    def goes_on(self) -> None:
        """Good jobs of each kind are stored, carried and run."""
        self.call(self._goes_on())

    async def _goes_on(self) -> None:
        kinds: list[tuple[str, Flag, bool]] = [
            ("good", "shim", False),
            ("called", "controller", False),
            ("good", "shim", True),
        ]
        ran = []
        for funcname, flag, injected in kinds:
            self._number += 1
            arg = f"number {self._number}"
            self._ran[arg] = asyncio.Event()
            ran.append(self._ran[arg].wait())
            if injected:
                call = json.dumps({"funcname": funcname, "arg": arg, "flag": flag}).encode()
                await self.client.submit([Submission(INJECT_JOBS.encode(), call)])
            else:
                await asyncio.to_thread(self.system.client.insert_job, funcname, arg, flag=flag)
        try:
            async with asyncio.timeout(SOON):
                await asyncio.gather(*ran)
        except TimeoutError:
            throttle.emit_held()
            raise AssertionError(f"good jobs did not run: {self.system.seen.events[-20:]}") from None


@pytest.fixture(params=["sqlite", *SERVERS])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
    if request.param == "sqlite":
        queue = Queue(tmp_path, None, None)
        yield queue
        queue.close()
        return
    server: SQLServer = request.getfixturevalue(request.param)
    with server.database() as url, gearmand(tmp_path) as address:
        queue = Queue(tmp_path, url, address)
        yield queue
        queue.close()


FEW = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# ---- payloads

_NUMBERS = st.sampled_from(
    [-(2**63), -1, 0, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 10**30]
) | st.integers(0, 100)
_TEXTS = st.text(max_size=20) | st.sampled_from(
    ["\0", "\ud800", "a\tb", "x" * 300, "\U0001f600", "good", "called", ""]
)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
#: What a forged payload says; most of it is such that it is taken for one of ours.
_PAYLOAD = st.fixed_dictionaries(
    {
        # Whoever knows the id of a job may end it: so here are only ids of which there is none.
        "jobid": st.sampled_from([10**9, 2**62, 2**63 - 1])
        | _JSON.filter(lambda jobid: not isinstance(jobid, int)),
        "dbid": st.sampled_from([1, 1, 1, 1, 2]) | _JSON,
    },
    optional={
        "funcname": st.sampled_from(["good", "called", "nobody", "a\tb", "", "x" * 300]) | _JSON,
        "arg": st.sampled_from(["", "x"]) | _JSON,
        "arg_encoding": st.sampled_from(["utf-8", "base64", "latin-1"]) | _JSON,
        **dict.fromkeys(("attempt", "lease", "lease_end", "run_after", "failcount"), _NUMBERS | _JSON),
        **dict.fromkeys(
            ("flag", "priority", "uniqkey", "coalesce"), st.sampled_from(["shim", "high"]) | _JSON
        ),
    },
)
#: A call of an Injector.
_CALL = st.fixed_dictionaries(
    {"funcname": st.sampled_from(["good", "x", "inject_jobs", "a\tb"]) | _JSON},
    optional={
        "arg": _JSON,
        "arg_encoding": st.sampled_from(["utf-8", "base64", "latin-1"]) | _JSON,
        "run_after": _NUMBERS | _JSON,
        "unique": st.sampled_from(["k", "k" * 255, "\0", "\ud800", "\U0001f600" * 255]) | _JSON,
        "flag": st.sampled_from(["shim", "controller", "raw"]) | _JSON,
        "priority": st.sampled_from(["high", "urgent"]) | _JSON,
        "coalesce": _TEXTS | _JSON,
    },
)


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _wrong(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[bytes]]:
    whole = (values | _JSON | st.lists(values, max_size=3)).map(_bytes)
    broken = st.sampled_from(
        [
            b"",
            b"[" * 10_000,
            b'{"a":' * 10_000,
            b"\xff\xfe",
            b"[" + b"{}," * 20_000 + b"{}]",
            b"1" * 6000,
            b'{"jobid":1,',
        ]
    )
    return st.lists(whole | broken | st.binary(max_size=30), min_size=5, max_size=60)


@pytest.mark.parametrize("function", ["good", RUN_QUEUED_JOB], ids=["worker", "controller"])
@FEW
@given(payloads=_wrong(_PAYLOAD))
def test_a_wrong_payload_holds_up_no_good_job(queue: Queue, function: str, payloads: list[bytes]) -> None:
    queue.submit(function, payloads)
    queue.goes_on()


@FEW
@given(payloads=_wrong(_CALL))
def test_a_wrong_call_of_an_injector_holds_up_no_good_job(queue: Queue, payloads: list[bytes]) -> None:
    queue.submit(INJECT_JOBS, payloads)
    queue.goes_on()


# ---- rows

_UNSIGNED = st.sampled_from([0, 1, 2, 255, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1])
_NAMES = _TEXTS | st.sampled_from(
    ["good", "called", "inject_jobs", "run_queued_job", "garivini_wake", "é" * 100]
)
_ROW = st.fixed_dictionaries(
    {
        "funcname": _NAMES,
        "run_after": st.sampled_from([0, 1, 1_000_000_000]) | _UNSIGNED | st.just(-1),
    },
    optional={
        "arg": st.binary(max_size=20) | st.none() | st.just(bytes(100_000)),
        "uniqkey": _TEXTS | st.none(),
        "coalesce": _TEXTS | st.none(),
        "flag": st.sampled_from(["shim", "controller", "", "raw", "SHIM"]) | st.none(),
        "failcount": st.sampled_from([0, 1, 24, 25, 255, 256, -1]),
        "priority": st.sampled_from([0, 1, 2, 3, 9, 255]),
        "state": st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5, 7, 255]),
        "attempt": _UNSIGNED,
        "since": _UNSIGNED,
        "crashes": st.sampled_from([0, 1, 2, 3, 65535]),
        "created": _UNSIGNED,
        "lease_end": _UNSIGNED,
    },
)
#: What SQLite holds in any column.
_ANYTHING = st.sampled_from([None, "soon", "\udcff", b"\xff\0", 1.5, -1, 2**62, float("inf")])
_SQLITE_ROW = st.tuples(
    _ROW,
    st.dictionaries(
        st.sampled_from(
            [
                "funcname",
                "run_after",
                "arg",
                "uniqkey",
                "coalesce",
                "flag",
                "failcount",
                "attempt",
                "since",
                "crashes",
                "created",
            ]
        ),
        _ANYTHING,
        max_size=2,
    ),
).map(lambda two: {**two[0], **two[1]})


@contextmanager
def writing(queue: Queue) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what inserts a row as another program might; a row that the database refuses is left out."""
    url = make_url(queue.system.url)
    connection: Any
    error: type[Exception]
    match url.get_backend_name():
        case "mysql":
            connection = pymysql.connect(
                host=url.host or "",
                port=url.port or 0,
                user=url.username,
                password=url.password or "",
                database=url.database,
                autocommit=True,
            )
            connection.cursor().execute("SET check_constraint_checks = 0, sql_mode = ''")
            mark, quote, error = "%s", "`", pymysql.Error
        case "postgresql":
            connection = psycopg.connect(queue.system.url, autocommit=True)
            mark, quote, error = "%s", '"', psycopg.Error
        case _:
            connection = sqlite3.connect(url.database or "", isolation_level=None, timeout=20)
            connection.execute("PRAGMA ignore_check_constraints = ON")
            mark, quote, error = "?", '"', sqlite3.Error

    def write(row: dict[str, Any]) -> None:
        names = ", ".join(f"{quote}{name}{quote}" for name in row)
        marks = ", ".join(
            f"CAST({mark} AS TEXT)" if mark == "?" and isinstance(value, str) else mark
            for value in row.values()
        )
        values = [
            value.encode("utf-8", "surrogateescape" if "\udcff" in value else "surrogatepass")
            if mark == "?" and isinstance(value, str)
            else value
            for value in row.values()
        ]
        with suppress(error, UnicodeError, ValueError):
            connection.cursor().execute(f"INSERT INTO job ({names}) VALUES ({marks})", values)

    with closing(connection):
        yield write


@FEW
@given(data=st.data())
def test_a_wrong_row_holds_up_no_good_job(queue: Queue, data: st.DataObject) -> None:
    kind = _SQLITE_ROW if queue.system.url.startswith("sqlite") else _ROW
    rows = data.draw(st.lists(kind, min_size=5, max_size=60))
    with writing(queue) as write:
        for row in rows:
            write(row)
    queue.goes_on()


#: The largest number of an attempt that each database holds, after which there is none.
_LAST: Final = {"mysql": 2**32 - 1, "postgresql": 2**31 - 1}


@pytest.mark.parametrize("row", [{"state": 0}, {"state": 3, "since": 1}], ids=["waiting", "lapsed"])
def test_a_row_whose_attempt_has_no_next_number_is_parked_and_others_go_on(
    queue: Queue, row: dict[str, Any]
) -> None:
    last = _LAST.get(make_url(queue.system.url).get_backend_name(), 2**63 - 1)
    with writing(queue) as write:
        for number in range(20):
            attempt = last if number % 5 == 3 else 1
            write({"funcname": "f", "run_after": 100 + number, "lease_end": 0, "attempt": attempt, **row})
    queue.goes_on()
    if last < 2**63 - 1:  # SQLite goes on in floating point

        async def parked() -> list[int]:
            async with asyncio.timeout(SOON):
                while True:
                    jobs = await asyncio.to_thread(queue.system.client.list_jobs, "f", "dead")
                    if len(jobs) == 4:
                        return [job.attempt or 0 for job in jobs]
                    await asyncio.sleep(0.05)  # a row says nothing

        assert queue.call(parked()) == [last] * 4
