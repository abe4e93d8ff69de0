"""``garivini db drain`` beside everything that uses the database."""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from garivini import Client
from tests.databases import sqlite_url
from tests.kills.history import History
from tests.kills.load import ROOT
from tests.processes import PATIENCE, command, until
from tests.servers import free_port

MODULE = """
import os
from pathlib import Path
from garivini import Client, Worker
from tests.kills.history import Recorder, Started

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
record = Recorder(Path("history"))

@worker.function("note")
def note(job):
    record(Started(job=(job.jobid, job.dbid), attempt=job.attempt, token=job.arg.decode(), pid=os.getpid()))
"""


@pytest.mark.slow
def test_each_job_runs_once_while_a_database_is_drained(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    (tmp_path / "work.py").write_text(MODULE)
    urls = [sqlite_url(tmp_path, f"{name}.db") for name in ("one", "two")]
    environment = {
        "GARIVINI_DB": " ".join(urls),
        "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}",
        "GARIVINI_LOG_FORMAT": "json",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    history = History(tmp_path / "history")
    stop = threading.Event()
    tokens: list[str] = []
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            with Client(urls) as client:
                while not stop.is_set():
                    new = [f"{len(tokens) + number}" for number in range(20)]
                    # Some are due when the drain is under way, some are delayed; every second one has a key.
                    client.insert_jobs(
                        [["note", token if int(token) % 2 else None, None, token] for token in new],
                        run_after=len(tokens) // 20 % 3,
                    )
                    tokens.extend(new)
        except BaseException as error:
            errors.append(error)

    with (
        command(tmp_path, "run", **environment) as roles,
        command(tmp_path, "worker", "work.py", "-p", "1", **environment),
        Client(urls) as client,
    ):
        roles.wait_for("role.started", 2)
        producer = threading.Thread(target=produce)
        producer.start()
        try:
            until(lambda: len(history.refresh().starts()) > 200)
            with command(tmp_path, "db", "drain", "2", **environment) as drain:
                assert drain.process.wait(PATIENCE) == 0, drain.output
            assert "is empty: remove it" in drain.output
            before = len(tokens)
            until(lambda: len(tokens) > before + 100)
        finally:
            stop.set()
            producer.join()
        until(lambda: client.list_jobs(limit=1) == [], lambda: client.list_jobs())
    assert errors == []
    runs = Counter(run.token for run in history.refresh().starts())
    assert runs == Counter(tokens)
    assert {run.job[1] for run in history.starts()} == {1, 2}
