"""A queue under test: what was inserted into it, and its jobs run in the test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from garivini.app import JobFunction
from garivini.client import Client
from garivini.errors import UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.json_forms import to_json
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.state import State
from garivini.store.database import Lane
from garivini.testing.clients import AsyncTestClient, TestClient
from garivini.testing.clocks import ROUND_DOWN, travel_statements
from garivini.testing.memory import MemoryDatabase
from garivini.testing.runs import Outcome, Runs
from garivini.worker.functions import Registered

#: Maximum runs of one ``drain``: a job that always reschedules itself would never end.
MAX_RUNS: Final = 10_000
#: The values of a job that assertions compare beside its arguments.
_OPTIONS: Final = ("run_after", "priority", "unique", "partition", "headers")


class TestQueue:
    """A queue in memory, into which an application inserts during a test.

    Args:
        memory: its database.
        entries: the functions that run its jobs, by name.
        functions: the typed functions, by name.

    """

    __test__ = False  # not a class of tests

    def __init__(
        self,
        memory: MemoryDatabase,
        entries: Mapping[str, Registered],
        functions: Mapping[str, JobFunction[..., Any]],
    ) -> None:
        self._memory = memory
        self._client = TestClient(memory)
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncTestClient] = (
            WeakKeyDictionary()
        )
        self._entries = dict(entries)
        self._functions = functions
        (self._database,) = self._client.shards
        self._runs = Runs(self._database, self._entries, self._note_follow_ups)

    @property
    def client(self) -> Client:
        """A client of the queue, for blocking calls."""
        return self._client

    @property
    def async_client(self) -> AsyncTestClient:
        """The client of the queue for the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._async_clients:
            self._async_clients[loop] = AsyncTestClient(self._client)
        return self._async_clients[loop]

    @property
    def inserted(self) -> list[NewJob]:
        """The jobs that were inserted, in order, also those that have ended since."""
        return [job for job, _ in self._client.inserted]

    def assert_inserted(self, function: JobFunction[..., Any] | str, /, **expected: Any) -> NewJob:
        """Make sure that a job was inserted; return the first that matches.

        Args:
            function: a typed function, or the name of a function.
            expected: some of the arguments of a typed function, or ``arg`` for bytes or text; and
                ``run_after`` (seconds from the insert), ``priority``, ``unique``, ``partition``, ``headers``.

        Raises:
            AssertionError: no job matches; the message lists those of the function.

        """
        found = self._matching(function, expected)
        if not found:
            name, wanted = _name(function), ", ".join(f"{key}={value!r}" for key, value in expected.items())
            jobs = [job for job in self.inserted if job.funcname == name]
            listed = "".join(f"\n  {_shown(job)}" for job in jobs) or " none"
            raise AssertionError(f"no job {name}({wanted}) was inserted; of this function:{listed}")
        return found[0]

    def refute_inserted(self, function: JobFunction[..., Any] | str, /, **expected: Any) -> None:
        """Make sure that no job was inserted that matches: see ``assert_inserted``.

        Raises:
            AssertionError: one matches.

        """
        if found := self._matching(function, expected):
            raise AssertionError(f"a job was inserted: {_shown(found[0])}")

    def drain(
        self, *, with_scheduled: bool = False, with_recursion: bool = True, raises: bool = False
    ) -> Counter[Outcome]:
        """Run the jobs that are due; return the number of runs by outcome.

        Args:
            with_scheduled: whether to run jobs that are due later, too, also retries.
            with_recursion: whether to run jobs that were inserted meanwhile, too.
            raises: whether to raise the first error of a function, after its job was settled.

        Raises:
            UsageError: after 10,000 runs there are still jobs.

        """
        counts: Counter[Outcome] = Counter()
        last = None if with_recursion else max((at.jobid for _, at in self._client.inserted), default=0)
        while jobs := list(self._claimed(with_scheduled, last)):
            for job in jobs:
                counts[self._runs.run(job, raises=raises)] += 1
                if counts.total() > MAX_RUNS:
                    raise UsageError(f"after {MAX_RUNS} runs there are still jobs of {job.funcname}")
        return counts

    def travel(self, seconds: int) -> None:
        """Let time pass for the queue: all stored times move back. Jobs that are due by then can run."""
        for statement in travel_statements():
            self._memory.execute(statement, seconds)
        self._memory.execute(ROUND_DOWN)

    def run_at_commit(self) -> None:
        """Run each job when its insert is committed, and raise the error of its function there."""
        self._client.on_commit = self._run_new

    def close(self) -> None:
        """Drop the queue."""
        for client in self._async_clients.values():
            client.stop()
        self._client.close()
        self._memory.close()

    def _run_new(self, new: Sequence[Inserted]) -> None:
        for at in new:
            if (job := self._client.get_job(at)) is None or job.funcname not in self._entries:
                continue
            self._memory.execute("UPDATE job SET run_after = created WHERE jobid = ?", at.jobid)
            claimed = self._claim(job.funcname, job.priority, 1000)
            for each in claimed:
                self._runs.run(each, raises=True)

    def _claimed(self, with_scheduled: bool, last: int | None) -> Iterator[Job]:
        if with_scheduled:
            self._memory.execute(
                "UPDATE job SET run_after = created WHERE state = 0 AND run_after < ?", NEVER
            )
        for priority in PRIORITIES:
            for funcname in self._entries:
                for job in self._claim(funcname, priority, 100):
                    if last is None or job.jobid <= last:
                        yield job
                    else:
                        self._database.release([job])

    def _claim(self, funcname: str, priority: str, limit: int) -> list[Job]:
        return self._database.claim(Lane(funcname, State.WAITING, priority, 0), limit=limit, lease=3600)

    def _note_follow_ups(self, job: Job) -> None:
        self._client.inserted += [(each, Inserted(0, 0)) for each in job.follow_ups]
        if self._client.on_commit is not None:
            self.drain(raises=True)

    def _matching(self, function: JobFunction[..., Any] | str, expected: Mapping[str, Any]) -> list[NewJob]:
        name = _name(function)
        typed = self._functions.get(name)
        parameters = () if typed is None else typed.definition.arguments.names
        unknown = [key for key in expected if key not in (*_OPTIONS, *parameters, "arg")]
        if unknown:
            raise UsageError(f"{name} has no parameter {', '.join(unknown)}")
        arguments = {key: value for key, value in expected.items() if key in parameters}
        options = {key: value for key, value in expected.items() if key not in parameters}
        return [
            job
            for job in self.inserted
            if job.funcname == name and _fits(job, options) and _has_arguments(job, arguments)
        ]


def _name(function: JobFunction[..., Any] | str) -> str:
    return function if isinstance(function, str) else function.name


def _has_arguments(job: NewJob, expected: Mapping[str, Any]) -> bool:
    if not expected:
        return True
    stored = msgspec.json.decode(job.arg)
    wanted = {key: msgspec.to_builtins(value, enc_hook=to_json) for key, value in expected.items()}
    return all(key in stored and stored[key] == value for key, value in wanted.items())


def _fits(job: NewJob, expected: Mapping[str, Any]) -> bool:
    found = {
        "run_after": job.delay,
        "priority": job.priority,
        "unique": job.uniqkey,
        "partition": job.partition,
        "headers": {} if job.headers is None else msgspec.json.decode(job.headers),
        "arg": job.arg,
    }
    arg = expected.get("arg")
    wanted = {**expected, "arg": arg.encode()} if isinstance(arg, str) else expected
    return all(found[key] == value for key, value in wanted.items())


def _shown(job: NewJob) -> str:
    options = {"run_after": job.delay, "unique": job.uniqkey, "partition": job.partition}
    given = ", ".join(f"{key}={value!r}" for key, value in options.items() if value)
    return f"{job.funcname} {job.arg.decode('utf-8', 'replace')} {given}".rstrip()
