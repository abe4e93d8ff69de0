"""A whole system of real processes under a steady load, each started again at once when it is killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from garivini import Client, Job, State
from tests.databases import sqlite_url
from tests.kills.history import History
from tests.processes import alive
from tests.servers import free_port, gearmand_command
from tests.sql_servers import SQLServer

#: Seconds to wait for what must happen. Far more than it takes: a busy machine is no failure.
PATIENCE: Final = 90.0
#: Rows in the database, at most, where the workers keep up with the producer.
STEADY: Final = 150
#: The workers of a pure load.
STOCK_WORKERS: Final = ("stock-1", "stock-2")

ROOT: Final = Path(__file__).parents[2]


class Service:
    """A process that is started again when it ends, as by a service manager: a new log each time."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]):
        self.name = name
        self._command = command
        self._folder = folder
        self._environment = environment
        self._starts = 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        with (self._folder / f"{self.name}-{self._starts:03}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [word.format(start=self._starts) for word in self._command],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,  # away from any settings file
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Make sure that it has not ended by itself."""
        status = self._process.poll()
        assert status is None, f"{self.name} ended by itself with status {status}: see {self._folder}"

    def has_started(self) -> bool:
        """Whether it has logged its start; before that a signal just ends it."""
        log = self._folder / f"{self.name}-{self._starts:03}.log"
        return b"role.started" in log.read_bytes()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Let it end in order; return its status."""
        self._process.terminate()
        return self._process.wait(PATIENCE)


class Load:
    """The services, what they have written down, and a client to look into the database with.

    It is on SQLite and the embedded server where no ``servers`` are given and ``gearmand`` is false. A
    ``pure`` one has clients and workers that know Gearman alone, with an Injector and a Controller.
    """

    def __init__(
        self, folder: Path, seed: int, servers: Sequence[SQLServer], gearmand: bool, pure: bool
    ) -> None:
        (folder / "history").mkdir()
        self.folder = folder
        self.history = History(folder / "history")
        self.servers = servers
        urls = [server.create_database() for server in servers] or [sqlite_url(folder)]
        self.address = f"127.0.0.1:{free_port()}"
        self.client = Client(urls)
        for database in self.client.shards:
            database.upgrade()
        environment = {
            "GARIVINI_DB": " ".join(urls),
            "GARIVINI_JOB_SERVERS": self.address,
            "GARIVINI_LOG_FORMAT": "json",
            "KILLS_HISTORY": str(folder / "history"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        garivini = (sys.executable, "-m", "garivini")
        commands: dict[str, Sequence[str]] = {
            "gearman": gearmand_command(folder, self.address)
            if gearmand
            else (*garivini, "run", "gearman", "-v"),
            "queue-runner": (*garivini, "run", "queue-runner", "-v"),
        }
        if pure:
            commands |= {
                "injector": (*garivini, "run", "injector", "-v"),
                "controller": (*garivini, "run", "controller", "-v"),
                **dict.fromkeys(STOCK_WORKERS, (sys.executable, "-m", "tests.kills.stock")),
                "client": (sys.executable, "-m", "tests.kills.inject", f"{seed}.{{start}}"),
            }
        else:
            commands |= {
                "worker": (*garivini, "worker", "tests.kills.work", "-p", "2", "-v"),
                "client": (sys.executable, "-m", "tests.kills.producer", f"{seed}.{{start}}"),
            }
        self.services = {
            name: Service(name, command, folder, environment) for name, command in commands.items()
        }
        # Every child of a worker that has been seen, to end it should its parent's death not do so.
        self._children: set[int] = set()

    def children(self) -> list[int]:
        """Return the processes of the worker, or the stock workers, that run jobs."""
        if "worker" not in self.services:
            return [self.services[name].pid for name in STOCK_WORKERS if name in self.services]
        pid = self.services["worker"].pid
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        self._children.update(found)
        return found

    def rows(self) -> list[Job]:
        """Return what is in the database."""
        return self.client.list_jobs(limit=1_000_000)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until this holds; meanwhile no service may end by itself."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            for service in self.services.values():
                service.check()
            assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s in vain for {what}: {self.folder}"
            time.sleep(0.02)

    def until_steady(self, since: int) -> None:
        """Wait until both worker processes run jobs that started after this time, and nothing piles up."""

        def both_run() -> bool:
            started = {run.pid for run in self.history.refresh().starts() if run.time > since}
            return len(self.children()) == 2 and set(self.children()) <= started

        self.until(both_run, "two worker processes that run jobs")
        self.until(lambda: len(self.rows()) < STEADY, "the workers to keep up with the producer")

    def finish(self) -> list[Job]:
        """Stop the producer, let the workers do the rest, stop them; return what is left."""
        assert self.services.pop("client").stop() == 0
        dead = State.DEAD
        with suppress(AssertionError):  # what remains is for the check to say
            self.until(lambda: all(job.state is dead for job in self.rows()), "the table to be empty")
        self.children()
        for name in ("worker", "controller", *STOCK_WORKERS, "injector", "queue-runner", "gearman"):
            if name in self.services:
                if name == "queue-runner":
                    # Clients submit by themselves: work may have gone on before it was back.
                    self.until(self.services[name].has_started, f"the {name} to start")
                status = self.services.pop(name).stop()
                assert status == 0, f"{name} ended with status {status}"
        return self.rows()

    def close(self) -> None:
        """End every process that is left."""
        with suppress(KeyError, OSError):
            self.children()
        for service in self.services.values():
            service.kill()
        for pid in filter(alive, self._children):
            if b"tests.kills.work" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        self.client.close()


@contextmanager
def load(
    folder: Path,
    seed: int,
    servers: Sequence[SQLServer] = (),
    *,
    gearmand: bool = False,
    pure: bool = False,
) -> Iterator[Load]:
    """Run a system under load in an empty folder."""
    system = Load(folder, seed, servers, gearmand, pure)
    try:
        yield system
    finally:
        system.close()


def pause(rng: random.Random, history: History) -> None:
    """Wait for a random moment: any, or one of the few milliseconds in which a batch is on its way."""
    time.sleep(rng.uniform(0.2, 1.5))
    if rng.random() < 0.5:
        lines = len(history.refresh().lines)
        deadline = time.monotonic() + 1.0
        while len(history.refresh().lines) == lines and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.005))
