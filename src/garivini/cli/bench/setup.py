"""The set-up of the measures: the database, the Gearman server, and the processes of both sides."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ParamSpec

from garivini.cli.bench import bare, processes, pure
from garivini.cli.bench.processes import Process
from garivini.cli.bench.pure import Callers
from garivini.cli.bench.runs import FLOOR, OURS, Reader, payload
from garivini.cli.ports import free_address
from garivini.cli.signals import sigterm_deferred
from garivini.client import Client
from garivini.errors import UsageError
from garivini.gearman.blocking import Client as GearmanClient
from garivini.submission import RUN_QUEUED_JOB

_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class Side:
    """The processes of one side of the comparison: Garivini or the baseline."""

    funcname: str
    dispatcher: Process
    producer: Process
    runs: Reader
    inserted: Reader
    #: Process ids of the workers.
    workers: list[int]


@dataclass(frozen=True, slots=True)
class PureSide:
    """One side in pure Gearman mode."""

    callers: Callers
    runs: Reader
    #: The functions of this side in the Gearman server.
    functions: tuple[str, ...]


class Setup:
    """The database, the Gearman server and the processes of the measures, started when first needed.

    Args:
        folder: the directory for all files.
        server: a Gearman server; None: the embedded server, in its own process.
        size: bytes of an argument.
        processes: worker processes per side.
        url: the URL of a database without jobs; None: a SQLite file.

    """

    def __init__(
        self, folder: Path, server: str | None, size: int, processes: int, url: str | None = None
    ) -> None:
        self.url: str = url or f"sqlite:///{folder / 'bench.db'}"
        self.arg: bytes = payload(size)
        self._size = size
        self._folder = folder
        self._given = server
        self._processes = processes
        self._ends = ExitStack()
        self.client: Client = Client(self.url)
        for database in self.client.shards:
            database.upgrade()
        self.store: bare.Bare = bare.connect(self.url)
        if not self.store.empty():
            self.client.close()
            self.store.close()
            raise UsageError(
                "the bench deletes all jobs, and this database has some: give it an empty database"
            )

    def close(self) -> None:
        """End all processes and close all connections."""
        self._ends.close()
        self.client.close()
        self.store.close()

    def __enter__(self) -> "Setup":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @cached_property
    def embedded(self) -> Process | None:
        """The process of the embedded server; None if the user has given a server."""
        if self._given is not None:
            return None
        self._address = free_address()
        words = ("run", "gearman", "--job-server", self._address)
        return self._start(processes.command, "server", *words, folder=self._folder)

    @cached_property
    def address(self) -> str:
        """The address of the Gearman server, which answers now."""
        server = self.embedded
        address = self._given or self._address
        processes.until(
            lambda: processes.answers(address), f"the Gearman server {address}", *([server] if server else [])
        )
        return address

    @cached_property
    def gearman(self) -> GearmanClient:
        """A connection to the Gearman server, for checks."""
        return self._ends.enter_context(GearmanClient(self.address))

    def _start(self, start: Callable[_P, Process], *arguments: _P.args, **named: _P.kwargs) -> Process:
        """Start a process that ``close`` ends."""
        with sigterm_deferred():
            process = start(*arguments, **named)
            self._ends.callback(process.wait)
            self._ends.callback(process.end)
        return process

    def _folders(self, name: str) -> tuple[Path, Path]:
        runs, inserted = self._folder / f"runs-{name}", self._folder / f"inserted-{name}"
        runs.mkdir()
        inserted.mkdir()
        return runs, inserted

    def _part(self, name: str, *rest: str) -> Process:
        part = self._start(processes.part, name, self.url, self.address, *rest, folder=self._folder)
        part.wait_ready()
        return part

    @cached_property
    def ours(self) -> Side:
        """QueueRunner, worker and producer, started and idle."""
        runs, inserted = self._folders("ours")
        worker = self._start(
            processes.command,
            "worker",
            *("worker", "garivini.cli.bench.work", "--processes", str(self._processes)),
            folder=self._folder,
            environment={
                "GARIVINI_DB": self.url,
                "GARIVINI_JOB_SERVERS": self.address,
                "GARIVINI_BENCH_RUNS": str(runs),
            },
        )
        self._wait_for_workers(OURS, worker)
        reader = Reader(runs)
        return Side(
            OURS,
            self._part("queue-runner"),
            self._part("producer", str(inserted), str(self._size)),
            reader,
            Reader(inserted),
            reader.processes(),
        )

    @cached_property
    def floor(self) -> Side:
        """The bare loops, started and idle."""
        runs, inserted = self._folders("floor")
        workers = [self._part("bare-worker", str(runs)) for _ in range(self._processes)]
        self._wait_for_workers(FLOOR, *workers)
        return Side(
            FLOOR,
            self._part("bare-dispatcher"),
            self._part("bare-producer", str(inserted), str(self._size)),
            Reader(runs),
            Reader(inserted),
            [worker.pid for worker in workers],
        )

    @cached_property
    def pure_ours(self) -> PureSide:
        """Injector, Controller with a QueueRunner beside it, and a stock worker."""
        environment = {"GARIVINI_DB": self.url, "GARIVINI_JOB_SERVERS": self.address}
        funcname, inject = pure.OURS
        for name, *roles in (("injector",), ("controller", "queue-runner")):
            words = ("run", name, *roles)
            self._start(processes.command, name, *words, folder=self._folder, environment=environment)
        return self._pure(funcname, inject, RUN_QUEUED_JOB)

    @cached_property
    def pure_floor(self) -> PureSide:
        """The bare chain, and a stock worker."""
        self._part("bare-injector")
        self._part("bare-controller")
        return self._pure(*pure.FLOOR)

    def _pure(self, funcname: str, inject: str, run: str) -> PureSide:
        runs = self._folder / f"runs-{funcname}"
        runs.mkdir()
        self._part("stock-worker", funcname, str(runs))
        functions = (inject, run, funcname)

        def connected() -> bool:
            counts = self.gearman.functions()
            return all(name.encode() in counts and counts[name.encode()].workers for name in functions)

        processes.until(connected, f"the workers of {', '.join(functions)}")
        callers = Callers(self.address, inject, funcname, self.arg)
        self._ends.callback(callers.close)
        return PureSide(callers, Reader(runs), functions)

    def _wait_for_workers(self, funcname: str, *workers: Process) -> None:
        def connected() -> bool:
            status = self.gearman.functions().get(funcname.encode())
            return status is not None and status.workers == self._processes

        processes.until(connected, f"the workers of {funcname}", *workers)

    def idle(self, *functions: str) -> bool:
        """Return whether the Gearman server has no job of these functions."""
        counts = self.gearman.functions()
        return not any(name.encode() in counts and counts[name.encode()].total for name in functions)

    def cpu(self, side: Side) -> dict[str, float]:
        """Return the CPU seconds of each part so far; empty if the system does not report them."""
        parts = {"dispatcher": [side.dispatcher.pid], "workers": side.workers}
        if self.embedded is not None:
            parts["server"] = [self.embedded.pid]
        found = {name: processes.cpu_seconds(pids) for name, pids in parts.items()}
        return {name: seconds for name, seconds in found.items() if seconds is not None}
