"""What is logged in a job: by the application and by the worker, as text and as JSON."""

import asyncio
import contextvars
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from garivini import Client, Discard, Job, JobFilter, Retry, Worker, current_job
from garivini.cli.logs import JsonFormatter, TextFormatter
from garivini.model.policy import FunctionPolicy
from garivini.worker.functions import registered
from garivini.worker.joblog import JobLog
from tests.databases import sqlite_url
from tests.processes import command, until
from tests.servers import embedded

MODULE = """
import asyncio, contextvars, logging, threading
from pathlib import Path
from garivini import Worker, current_job

logger = logging.getLogger("shop")
worker = Worker()

def note(text):
    logger.info("%s %s", text, current_job() and current_job().id)

@worker.function("plain")
def plain(job):
    logger.debug("too fine")
    note("in a def")
    thread = threading.Thread(target=contextvars.copy_context().run, args=(note, "in a copy"))
    thread.start()
    thread.join()
    thread = threading.Thread(target=note, args=("in a bare thread",))
    thread.start()
    thread.join()

@worker.function("awaited")
async def awaited(job):
    async def inner():
        await asyncio.sleep(0.01)
        note(f"in a task of {job.id}")
    await asyncio.gather(asyncio.create_task(inner()), asyncio.to_thread(note, f"in to_thread of {job.id}"))

@worker.function("broken")
def broken(job):
    raise ValueError("no luck")
"""


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[Client, Any]]:
    url = sqlite_url(folder)
    (folder / "work.py").write_text(MODULE)
    with embedded() as server:
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": server}
        with (
            command(folder, "worker", "work.py", "-p", "1", *arguments, **environment) as worker,
            Client(url, server) as client,
        ):
            worker.wait_for("worker.started")
            yield client, worker


@pytest.mark.slow
def test_what_an_application_logs_appears_with_its_job(tmp_path: Path) -> None:
    with running(tmp_path) as (client, worker):
        client.insert_job("plain")
        worker.wait_for("in a bare thread None")
        lines = [line for line in worker.output.splitlines() if " shop " in line]
        assert lines[0].endswith("shop in a def 1:1 job=1:1 function=plain attempt=1")
        assert lines[1].endswith("shop in a copy 1:1 job=1:1 function=plain attempt=1")
        assert lines[2].endswith("shop in a bare thread None")
        assert "too fine" not in worker.output
        assert "job.started" not in worker.output
        for _ in range(5):
            client.insert_job("awaited")
        until(
            lambda: worker.output.count("in to_thread of") == 5 and worker.output.count("in a task of") == 5
        )
        for jobid in range(2, 7):
            assert f"in a task of 1:{jobid} 1:{jobid} job=1:{jobid} function=awaited" in worker.output
            assert f"in to_thread of 1:{jobid} 1:{jobid} job=1:{jobid} function=awaited" in worker.output


@pytest.mark.slow
def test_each_job_has_a_line_for_start_and_end_as_json(tmp_path: Path) -> None:
    arguments = ("--log-format", "json", "--log-jobs", "info", "--log-tracebacks", "--log-level", "debug")
    with running(tmp_path, *arguments) as (client, worker):
        client.insert_job("plain")
        client.insert_job("awaited")
        client.insert_job("broken")
        until(lambda: worker.output.count('"job.ended"') == 3)
        entries = [json.loads(line) for line in worker.output.splitlines()]
    by_event = {(entry.get("event"), entry.get("id")): entry for entry in entries}
    started, ended = by_event["job.started", "1:1"], by_event["job.ended", "1:1"]
    assert (started["function"], started["attempt"], started["level"]) == ("plain", 1, "info")
    assert 0 <= started["wait"] < 30
    assert ended["outcome"] == "succeeded"
    assert 0 <= ended["run"] < 30
    assert by_event["job.ended", "1:2"]["outcome"] == "succeeded"
    broken = by_event["job.ended", "1:3"]
    assert (broken["outcome"], broken["level"], broken["error"]) == ("failed", "error", "ValueError: no luck")
    assert 'raise ValueError("no luck")' in broken["exception"]
    (own,) = [entry for entry in entries if entry["message"] == "in a def 1:1"]
    assert (own["logger"], own["job"], own["function"], own["attempt"]) == ("shop", "1:1", "plain", 1)
    assert "event" not in own
    (bare,) = [entry for entry in entries if entry["message"].startswith("in a bare thread")]
    assert "job" not in bare
    assert "too fine" in {entry["message"] for entry in entries}
    (up,) = [entry for entry in entries if entry.get("event") == "worker.started"]
    assert up["logger"] == "garivini"


# ---- the parts


JOB = Job(jobid=42, dbid=1, funcname="f", arg=b"", attempt=3, run_after=1)


def run(function: Any, job_log: JobLog, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Run a wrapped function; return what it logged."""
    caplog.clear()
    caplog.set_level(logging.DEBUG, "garivini")
    entry = job_log.wrap(registered("f", function, FunctionPolicy()))
    with suppress(Exception, SystemExit, asyncio.CancelledError):
        result = entry.function(JOB)
        if entry.is_async:
            asyncio.run(result)
    return caplog.records


def raising(error: BaseException) -> Any:
    def function(job: Job) -> None:
        raise error

    return function


async def cancelled(job: Job) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("function", "outcome", "level"),
    [
        (lambda job: None, "succeeded", logging.INFO),
        (raising(Retry(5)), "retried", logging.INFO),
        (raising(Discard()), "discarded", logging.INFO),
        (raising(ValueError("x")), "failed", logging.ERROR),
        (raising(SystemExit(1)), "failed", logging.ERROR),
        (cancelled, "cancelled", logging.ERROR),
        (lambda job: (letter for letter in "ab"), "failed", logging.ERROR),
    ],
)
def test_joblog_writes_the_outcome(
    function: Any, outcome: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    started, ended = run(function, JobLog(logging.INFO), caplog)
    assert started.getMessage().startswith("job.started function='f' id='1:42' attempt=3 wait=")
    assert f"outcome={outcome!r}" in ended.getMessage()
    assert (started.levelno, ended.levelno) == (logging.INFO, level)
    assert ended.exc_info is None


def test_joblog_writes_tracebacks_alone_where_only_these_are_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run(lambda job: None, JobLog(tracebacks=True), caplog) == []
    (ended,) = run(raising(ValueError("x")), JobLog(tracebacks=True), caplog)
    assert ended.exc_info is not None


def test_joblog_leaves_a_function_alone_where_nothing_is_logged() -> None:
    entry = registered("f", lambda job: None, FunctionPolicy())
    assert JobLog().wrap(entry) is entry


def test_current_job_is_none_outside_of_a_job() -> None:
    assert current_job() is None


def test_a_function_that_is_called_by_itself_has_no_job() -> None:
    seen = []
    worker = Worker(Client("sqlite:///jobs.db"), "127.0.0.1:1")
    worker.function("f")(lambda job: seen.append(current_job()))
    worker.functions["f"].function(JOB)
    assert seen == [None]


def test_job_filter_adds_the_job_to_the_records_of_its_context() -> None:
    from garivini.model.current import set_current_job

    def record() -> logging.LogRecord:
        found = logging.LogRecord("shop", logging.INFO, "", 0, "hello", (), None)
        assert JobFilter().filter(found)
        return found

    def in_job() -> tuple[logging.LogRecord, list[logging.LogRecord]]:
        set_current_job(JOB)
        others: list[logging.LogRecord] = []
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(lambda: others.append(record()),)),
            threading.Thread(target=lambda: others.append(record())),
        ]
        for thread in threads:
            thread.start()
            thread.join()
        return record(), others

    inside, (copied, bare) = contextvars.copy_context().run(in_job)
    for found in (inside, copied):
        assert (found.job_id, found.job_function, found.job_attempt) == ("1:42", "f", 3)  # type: ignore[attr-defined]
    for found in (bare, record()):
        assert (found.job_id, found.job_function, found.job_attempt) == (None, None, None)  # type: ignore[attr-defined]
    text = TextFormatter().format(inside)
    assert text.endswith("shop hello job=1:42 function=f attempt=3")
    entry = json.loads(JsonFormatter().format(inside))
    assert (entry["logger"], entry["message"], entry["job"]) == ("shop", "hello", "1:42")
