"""A function in ``garivini worker`` finds an ordinary Python process. Real processes, on SQLite."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from garivini import Client, State
from tests.databases import sqlite_url
from tests.processes import Command, alive, command, until
from tests.servers import free_port

pytestmark = pytest.mark.slow

MODULE = """
import asyncio, json, multiprocessing, os, signal, subprocess, sys, threading, time
from pathlib import Path

from garivini import Client, Worker

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])


def note(name, value):
    part = Path(f"{name}.part")
    part.write_text(json.dumps(value))
    part.rename(f"{name}.json")


def double(number):
    return 2 * number


async def sleep_and_answer():
    await asyncio.sleep(0.001)
    return "ran"


@worker.function("python")
def python(job):
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, handler)
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    note("python", {
        "main thread": threading.current_thread() is threading.main_thread(),
        "running loop": asyncio._get_running_loop() is not None,
        "asyncio.run": asyncio.run(sleep_and_answer()),
        "SIGINT in a program": child.stdout.strip(),
    })


@worker.function("counts")
def counts(job):
    Path("pid").write_text(str(os.getpid()))
    numbers = [job.run, job.run, job.attempt]
    with open("starts", "a") as starts:
        starts.write(json.dumps(numbers) + "\\n")
    if job.arg == b"dies" and job.run == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while not Path("go-on").exists():
        time.sleep(0.01)


@worker.function("django")
def uses_django(job):
    import django
    from django.conf import settings
    if not settings.configured:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}
        settings.configure(DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.AutoField")
        django.setup()
    from django.db import connection, models

    class Order(models.Model):
        number = models.IntegerField()
        class Meta:
            app_label = "shop"

    with connection.schema_editor() as editor:
        editor.create_model(Order)
    Order.objects.create(number=7)
    note("django", list(Order.objects.values_list("number", flat=True)))


@worker.function("pool")
def pool(job):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]


@worker.function("forks")
def forks(job):
    statuses = []
    for leave in ("exit", "return", "raise", "terminate", "interrupt"):
        pid = os.fork()
        if pid == 0:
            with open("children", "a") as file:
                file.write("one\\n")
            if leave == "exit":
                sys.exit(3)
            if leave == "raise":
                raise ValueError("in a child")
            if leave == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            if leave == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            return
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    note("forks", statuses)


@worker.function("nested_forks")
def nested_forks(job):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        inner = os.fork()
        if inner == 0:
            os._exit(7 if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN else 0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
    note("nested_forks", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@worker.function("async_forks")
async def async_forks(job):
    pid = os.fork()
    if pid == 0:
        sys.exit(4)
    note("async_forks", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@worker.function("orphan")
def orphan(job):
    '''Leave a child behind that outlives this process.'''
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    note(f"orphan-{os.getpid()}", pid)
    while not Path("go-on").exists():
        time.sleep(0.01)


@worker.function("block")
def block(job):
    note("blocking", os.getpid())
    while not Path("go-on").exists():
        time.sleep(0.01)


@worker.function("quick", timeout=20)
async def quick(job):
    await asyncio.sleep(0.01)
    note("quick", job.attempt)


@worker.function("limited", timeout=0.2)
async def limited(job):
    await asyncio.sleep(60)


@worker.function("overruns", timeout=0.2)
def overruns(job):
    time.sleep(60)


@worker.function("stubborn", cancel_grace=1)
def stubborn(job):
    note("stubborn", os.getpid())
    time.sleep(60)


@worker.function("obedient", cancel_grace=1)
def obedient(job):
    note("obeys", os.getpid())
    while not job.cancelled:
        time.sleep(0.01)
    raise RuntimeError("cancelled")


@worker.function("outlives the grace time")
def outlives(job):
    time.sleep(2)
    note("outlived", os.getpid())


@worker.function("waits")
async def waits(job):
    with open("waits", "a") as starts:
        starts.write("one ")
    while not Path("go-on").exists():
        await asyncio.sleep(0.01)


@worker.function("handlers")
def handlers(job):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    note("handlers", True)


class Panic(BaseException):
    pass


@worker.function("panics")
async def panics(job):
    raise Panic("from a compiled module")


@worker.function("panics_too")
def panics_too(job):
    raise KeyboardInterrupt
"""


class Shop:
    """A worker of one process, the roles, and what the functions have noted."""

    def __init__(self, folder: Path, module: str = MODULE) -> None:
        (folder / "work.py").write_text(module)
        self.folder = folder
        self.url = sqlite_url(folder)
        self.client = Client(self.url)
        self.environment = {"GARIVINI_DB": self.url, "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}"}

    @contextmanager
    def worker(self, *options: str) -> Iterator[Command]:
        with command(self.folder, "worker", "work.py", "-p", "1", *options, **self.environment) as worker:
            worker.wait_for("gearman.connected")
            yield worker

    def noted(self, name: str) -> Any:
        """Wait for what a function has noted."""
        file = self.folder / f"{name}.json"
        until(file.exists, name)
        return json.loads(file.read_text())

    def until_empty(self) -> None:
        until(
            lambda: self.client.list_jobs() == [],
            self.client.list_jobs,
            progress=lambda: len(self.client.list_jobs()),
        )


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path)
    with command(tmp_path, "run", **found.environment) as roles:
        roles.wait_for("role.started")
        yield found
    found.client.close()


def test_a_def_runs_in_the_main_thread_without_a_loop(shop: Shop) -> None:
    with shop.worker():
        shop.client.insert_job("python")
        assert shop.noted("python") == {
            "main thread": True,
            "running loop": False,
            "asyncio.run": "ran",
            "SIGINT in a program": "True",
        }
        shop.until_empty()


def test_a_def_reads_and_writes_a_model_of_django(shop: Shop) -> None:
    with shop.worker():
        shop.client.insert_job("django")
        assert shop.noted("django") == [7]
        shop.until_empty()


def test_a_def_uses_a_pool_of_processes(shop: Shop) -> None:
    with shop.worker():
        shop.client.insert_jobs([["pool", None, None, b""]] * 60)
        shop.until_empty()


def test_a_forked_child_is_no_second_worker_and_heeds_signals(shop: Shop) -> None:
    with shop.worker() as worker:
        shop.client.insert_job("forks")
        assert shop.noted("forks") == [3, 0, 1, -signal.SIGTERM, 1]
        assert (shop.folder / "children").read_text().count("one") == 5
        assert "ValueError: in a child" in worker.output
        shop.client.insert_job("async_forks")
        assert shop.noted("async_forks") == 4
        shop.until_empty()
        # The worker's own handlers are as before.
        assert worker.stop() == 0
        assert "worker.stopped" in worker.output


def test_a_child_that_a_forked_child_forks_keeps_its_handlers(shop: Shop) -> None:
    with shop.worker():
        shop.client.insert_job("nested_forks")
        assert shop.noted("nested_forks") == 7
        shop.until_empty()


def test_job_run_is_the_number_of_a_start_after_a_crash_and_a_drain_that_gave_up(shop: Shop) -> None:
    inserted = shop.client.insert_job("counts", "dies")
    with shop.worker("--drain", "0.2"):
        until(lambda: len(_starts(shop)) == 2)
    with shop.worker():
        until(lambda: len(_starts(shop)) == 3)
        # The Gearman server gave the same copy each time.
        assert _starts(shop) == [[1, 1, 1], [2, 2, 1], [3, 3, 1]]
        found = shop.client.get_job(inserted)
        assert found is not None
        assert found.run == 3
        (shop.folder / "go-on").touch()
        shop.until_empty()


def test_job_run_is_the_number_of_a_start_after_everything_was_killed(shop: Shop) -> None:
    shop.client.insert_job("counts")
    with shop.worker() as worker:
        until(lambda: len(_starts(shop)) == 1)
        for pid in (worker.process.pid, int((shop.folder / "pid").read_text())):
            os.kill(pid, signal.SIGKILL)
        worker.process.wait()
    with shop.worker():
        until(lambda: len(_starts(shop)) == 2)
        assert _starts(shop) == [[1, 1, 1], [2, 2, 1]]
        (shop.folder / "go-on").touch()
        shop.until_empty()


def _starts(shop: Shop) -> list[list[int]]:
    """Return of each start its number, read twice, and its attempt."""
    file = shop.folder / "starts"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_child_that_a_function_left_behind_does_not_hide_the_death_of_its_worker(shop: Shop) -> None:
    with shop.worker("-v"):
        shop.client.insert_job("orphan")
        until(lambda: list(shop.folder.glob("orphan-*.json")))
        (first,) = shop.folder.glob("orphan-*.json")
        child = json.loads(first.read_text())
        try:
            os.kill(int(first.stem.removeprefix("orphan-")), signal.SIGKILL)
            # The lease is 60 s: the server has seen the connection close.
            until(lambda: len(list(shop.folder.glob("orphan-*.json"))) == 2)
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)
            for other in shop.folder.glob("orphan-*.json"):
                if other != first:
                    os.kill(json.loads(other.read_text()), signal.SIGKILL)
        (shop.folder / "go-on").touch()
        shop.until_empty()


def test_an_async_def_runs_and_keeps_its_time_limit_beside_a_def_that_blocks(shop: Shop) -> None:
    with shop.worker():
        blocking, _ = shop.client.insert_job("block")
        shop.noted("blocking")
        shop.client.insert_job("quick")
        assert shop.noted("quick") == 1
        limited, dbid = shop.client.insert_job("limited")
        until(lambda: shop.client.failures((limited, dbid)))
        (failure,) = shop.client.failures((limited, dbid))
        assert (failure.error, failure.message) == ("TimeLimit", "ran longer than 0.2 s")
        job = shop.client.get_job((blocking, dbid))
        assert job is not None
        assert job.state in (State.LEASED, State.RUNNING)
        (shop.folder / "go-on").touch()


def test_a_def_that_overruns_its_time_limit_is_no_crash_of_an_async_def_beside_it(shop: Shop) -> None:
    starts = shop.folder / "waits"
    with shop.worker():
        waits = shop.client.insert_job("waits")
        until(starts.exists)
        overruns = shop.client.insert_job("overruns")
        until(lambda: shop.client.failures(overruns))
        until(lambda: starts.read_text().count("one") == 2)
        quick = shop.client.insert_job("quick")
        until(lambda: shop.client.get_job(quick) is None)  # deaths are recorded before that
        assert shop.client.failures(waits) == []
        (shop.folder / "go-on").touch()


def test_a_def_that_still_runs_after_the_grace_time_of_its_cancel_is_ended_with_its_process(
    shop: Shop,
) -> None:
    with shop.worker():
        stubborn = shop.client.insert_job("stubborn")
        pid = shop.noted("stubborn")
        began = time.monotonic()
        assert shop.client.cancel_job(stubborn, "as the test wants")
        until(lambda: not alive(pid))
        assert time.monotonic() - began > 1
        quick = shop.client.insert_job("quick")
        until(lambda: shop.client.get_job(quick) is None)  # deaths are recorded before that
        job = shop.client.get_job(stubborn)
        assert job is not None
        assert (job.state, job.failcount, job.crashes) == (State.DEAD, 0, 0)
        assert [record.kind for record in shop.client.failures(stubborn)] == ["cancelled"]


def test_a_def_that_ends_within_the_grace_time_of_its_cancel_leaves_its_process_alone(shop: Shop) -> None:
    with shop.worker():
        obedient = shop.client.insert_job("obedient")
        pid = shop.noted("obeys")
        assert shop.client.cancel_job(obedient)
        shop.client.insert_job("outlives the grace time")
        assert shop.noted("outlived") == pid


def test_a_drain_reports_the_def_that_outlives_it(shop: Shop) -> None:
    with shop.worker("--drain", "0.5") as worker:
        jobid, dbid = shop.client.insert_job("block")
        pid = shop.noted("blocking")
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 20  # and not for ever
        assert "worker.drain_incomplete" in worker.output
        assert f"block {dbid}:{jobid}" in worker.output
        assert "worker.stopped" in worker.output
        assert not alive(pid)


def test_signal_handlers_that_a_function_left_behind_do_not_keep_the_worker_from_draining(shop: Shop) -> None:
    with shop.worker() as worker:
        shop.client.insert_job("handlers")
        shop.noted("handlers")
        shop.until_empty()
        assert worker.stop() == 0
        assert "worker.stopped" in worker.output


@pytest.mark.parametrize("name", ["panics", "panics_too"])
def test_a_base_exception_fails_its_job_and_the_worker_goes_on(shop: Shop, name: str) -> None:
    error = {"panics": "Panic", "panics_too": "KeyboardInterrupt"}[name]
    with shop.worker():
        handle = shop.client.insert_job(name)
        until(lambda: shop.client.failures(handle))
        (failure,) = shop.client.failures(handle)
        assert failure.error == error
        shop.client.insert_job("quick")
        assert shop.noted("quick") == 1
