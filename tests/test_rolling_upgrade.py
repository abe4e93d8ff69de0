"""``garivini db upgrade`` of a later version while programs of this one run. Real processes."""

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from garivini import Client
from garivini.gearman.blocking import Client as GearmanClient
from garivini.store.schema import SCHEMA
from tests.commands import run
from tests.databases import sqlite_url
from tests.newer_version import ALLOWING, NEXT, REFUSING, newer, upgrade
from tests.processes import PATIENCE, Command, alive, command, until
from tests.servers import gearmand
from tests.system import upgraded

pytestmark = [pytest.mark.slow, pytest.mark.servers]

MODULE = """
import os
from garivini import Client, Worker

worker = Worker(Client())


@worker.function("note")
def note(job):
    with open(f"{os.environ['NOTES']}", "ab") as notes:
        notes.write(b"%b %d\\n" % (job.arg, os.getpid()))
"""


class Installation:
    """A database and a Gearman server, and the programs that use them."""

    def __init__(self, folder: Path, url: str, address: str) -> None:
        self.folder = folder
        self._environment = {
            "GARIVINI_DB": url,
            "GARIVINI_JOB_SERVERS": address,
            "NOTES": str(folder / "notes"),
        }
        self.url = url
        self._address = address
        (folder / "jobs.py").write_text(MODULE)

    @contextmanager
    def old(self, *arguments: str) -> Iterator[Command]:
        """Run ``garivini`` of this version."""
        with command(self.folder, *arguments, **self._environment) as running:
            yield running

    @contextmanager
    def new(self, *arguments: str) -> Iterator[Command]:
        """Run ``garivini`` of the later version, whose tables this one may use."""
        with newer(self.folder, ALLOWING, *arguments, **self._environment) as running:
            yield running

    def ran(self) -> list[tuple[str, int]]:
        """Return argument and process of each job that has run."""
        notes = self.folder / "notes"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [(arg, int(pid)) for arg, pid in map(str.split, lines)]

    def until_ran(self, count: int) -> None:
        """Wait until so many jobs have run and are committed, and the Gearman server knows."""
        with Client(self.url) as client, GearmanClient(self._address) as server:
            until(
                lambda: len(self.ran()) >= count and not client.list_jobs() and not held(server),
                lambda: f"{count} jobs; {self.ran()}, {client.list_jobs()}, {held(server)}",
            )


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """An installation of this version."""
    with gearmand(tmp_path) as address:
        if request.param == "sqlite":
            yield Installation(tmp_path, sqlite_url(tmp_path), address)
            return
        with request.getfixturevalue(request.param).database() as url:
            upgraded(url).close()
            yield Installation(tmp_path, url, address)


def held(server: GearmanClient) -> int:
    """Return how many copies a Gearman server has. It would give those of a killed worker to another one."""
    counts = server.functions().get(b"note")
    return counts.queued + counts.running if counts else 0


def children(worker: Command) -> list[int]:
    """Return the living children of a ``garivini worker``."""
    listed = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text()
    return [pid for pid in map(int, listed.split()) if alive(pid)]


def test_upgrade_lets_programs_of_the_version_before_go_on(installation: Installation) -> None:
    with (
        installation.old("run", "queue-runner", "controller") as old_roles,
        installation.old("worker", "jobs.py", "-p", "2") as old_worker,
        Client(installation.url) as old_client,
    ):
        old_worker.wait_for("worker.started", 2)
        done = threading.Event()
        inserted = 0

        def insert_until_done() -> None:
            nonlocal inserted
            while not done.wait(0.01) or inserted < 20:  # no backlog that takes a busy machine long
                old_client.insert_job("note", f"old-{inserted}")
                inserted += 1

        producer = threading.Thread(target=insert_until_done)
        producer.start()
        try:
            with installation.new("db", "upgrade") as upgrading:
                assert upgrading.process.wait(PATIENCE) == 0, upgrading.output
        finally:
            done.set()
            producer.join()
        installation.until_ran(inserted)
        # The parent starts other children, which open the newer tables.
        before = children(old_worker)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        old_worker.wait_for("worker.started", 4)
        with (
            installation.new("run", "queue-runner", "controller") as new_roles,
            installation.new("worker", "jobs.py", "-p", "2") as new_worker,
        ):
            new_worker.wait_for("worker.started", 2)
            new_roles.wait_for("role.started")
            with Client(installation.url) as another:  # checks the tables for the first time
                another.insert_jobs([["note", None, None, f"both-{number}"] for number in range(100)])
            inserted += 100
            installation.until_ran(inserted)
            assert set(children(old_worker)).isdisjoint(before)
            assert len(children(old_worker)) == 2
            assert old_worker.output.count("worker.child_died") == 2
            for program in (old_roles, old_worker):
                assert program.stop() == 0, program.output
            with installation.new("insert", "note", "new") as inserting:
                assert inserting.process.wait(PATIENCE) == 0, inserting.output
            installation.until_ran(inserted + 1)
        logs = [program.output for program in (old_roles, old_worker, new_roles, new_worker)]
        assert not any("Error" in log or "schema" in log for log in logs), logs
    arguments = [arg for arg, _ in installation.ran()]
    assert len(arguments) == len(set(arguments)) == inserted + 1


def test_upgrade_by_both_versions_at_once_ends_in_the_newer_tables(installation: Installation) -> None:
    with ExitStack() as stack:
        programs = [
            stack.enter_context(version("db", "upgrade")) for version in (installation.old, installation.new)
        ]
        for program in programs:
            assert program.process.wait(PATIENCE) == 0, program.output
    checked = run("db", "check", GARIVINI_DB=installation.url)
    assert f"has schema {ALLOWING}, which this code, of {SCHEMA}, can use" in checked.stdout, checked


@pytest.mark.parametrize("installation", ["sqlite"], indirect=True)
def test_upgrade_that_does_not_allow_the_version_before_stops_new_children(
    installation: Installation,
) -> None:
    with (
        installation.old("run", "queue-runner") as roles,
        installation.old("worker", "jobs.py", "-p", "1") as worker,
        Client(installation.url) as client,
    ):
        worker.wait_for("worker.started")
        roles.wait_for("role.started")
        client.insert_job("note", "before")
        installation.until_ran(1)
        upgrade(installation.url, installation.folder, REFUSING)
        for pid in children(worker):
            os.kill(pid, signal.SIGKILL)
        worker.wait_for(f"has schema {NEXT}, this code needs {SCHEMA}: update garivini")
        client.insert_job("note", "after")  # a program that was running goes on
        # Once the tables allow it, the parent's next child works again.
        with closing(sqlite3.connect(installation.folder / "jobs.db")) as connection, connection:
            connection.execute("UPDATE garivini_version SET version_num = ?", [ALLOWING])
        installation.until_ran(2)
