"""Databases that end, stand still or refuse writes under load, alone and as one of two."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from garivini import Client, GariviniError
from garivini.errors import UnreachableError
from tests.kills.history import Refused
from tests.kills.kill import FAULTS, PURE_ROLES, ROLES, run
from tests.kills.load import load
from tests.sql_servers import SERVERS, MariaDB, PostgreSQL, SQLServer
from tests.system import upgraded

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]

Kind = Callable[[], SQLServer]
Start = Callable[[Kind], SQLServer]
#: How often each role is killed and each fault happens, and how many jobs are exceeded meanwhile.
KILLS: Final = pytest.mark.parametrize(
    ("kills", "jobs"), [(1, 20), pytest.param(2, 100, marks=pytest.mark.soak)]
)
#: Seconds within which an insert returns or raises: the time-out of a call, and one more to connect.
PATIENCE: Final = 25.0


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return SERVERS[request.param]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(kind())


@KILLS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_database_that_goes_away_under_load_loses_nothing(
    tmp_path: Path,
    kind: Kind,
    fault: str,
    kills: int,
    jobs: int,
    start: Start,
    record_property: Callable[[str, object], None],
) -> None:
    outcome = run(tmp_path, [fault], kills, 1, servers=[start(kind)], gearmand=True)
    assert outcome.verdict.sound, outcome
    assert outcome.verdict.started_again == {}
    assert outcome.verdict.acknowledged > jobs
    assert outcome.longest_insert < PATIENCE
    (report,) = outcome.reports
    record_property("seconds until the first job", report.first)
    # Half a lease: whatever waits for one to end has been forgotten.
    assert max(report.first) < 30.0


@KILLS
def test_nothing_is_lost_whichever_role_is_killed(
    tmp_path: Path, kind: Kind, start: Start, kills: int, jobs: int
) -> None:
    outcome = run(tmp_path, ROLES, kills, seed=1, servers=[start(kind)], gearmand=True)
    assert outcome.verdict.sound, outcome
    assert outcome.verdict.acknowledged > jobs
    for part in outcome.reports:
        assert max(part.all, default=0.0) < 30.0, part


@KILLS
def test_nothing_is_lost_in_pure_mode_whichever_role_is_killed(
    tmp_path: Path, kind: Kind, start: Start, kills: int, jobs: int
) -> None:
    outcome = run(tmp_path, PURE_ROLES, kills, seed=1, servers=[start(kind)], gearmand=True, pure=True)
    assert outcome.verdict.sound, outcome
    assert outcome.verdict.acknowledged > jobs
    for part in outcome.reports:
        # What is found only when its lease ends takes a minute.
        assert max(part.all, default=0.0) < 30.0, part


def test_while_one_of_two_databases_is_down_inserts_go_on_in_the_other(tmp_path: Path, start: Start) -> None:
    one, two = start(MariaDB), start(PostgreSQL)
    with load(tmp_path, 1, [one, two]) as system:
        system.until_steady(0)
        homes = {database.dbid: _key(system.client, database.dbid) for database in system.client.shards}
        one.kill()
        died = time.monotonic_ns()
        with pytest.raises(UnreachableError, match="database 1"):
            system.client.insert_job("note", "keyed 0", unique=homes[1])
        assert system.client.insert_job("nobody", unique=homes[2]).dbid == 2
        system.until(
            lambda: sum(run.time > died for run in system.history.refresh().starts()) > 50,
            "jobs of the other database to run",
        )
        one.start()
        back = time.monotonic_ns()
        system.until(
            lambda: any(run.time > back and run.job[1] == 1 for run in system.history.refresh().starts()),
            "jobs of the first database to run again",
        )
        system.client.delete_jobs(system.client.list_jobs("nobody"))
        left = system.finish()
        refused = [line.error for line in system.history.refresh().lines if isinstance(line, Refused)]
    assert refused == []
    assert left == []


def test_while_both_databases_are_down_inserts_say_so_and_the_roles_live_on(
    tmp_path: Path, start: Start
) -> None:
    one, two = start(MariaDB), start(PostgreSQL)
    with load(tmp_path, 1, [one, two]) as system:
        system.until_steady(0)
        one.kill()
        two.kill()
        with pytest.raises(UnreachableError, match="cannot be reached"):
            system.client.insert_job("note", "x 0")
        time.sleep(3.0)  # the roles try, in vain and more than once
        one.start()
        two.start()
        back = time.monotonic_ns()
        system.until(
            lambda: {run.job[1] for run in system.history.refresh().starts() if run.time > back} == {1, 2},
            "jobs of both databases to run again",
        )
        assert system.finish() == []


def test_a_key_has_one_live_job_whoever_inserts_it(start: Start) -> None:
    urls = [start(kind).create_database() for kind in (MariaDB, PostgreSQL)]
    for dbid, url in enumerate(urls, 1):
        upgraded(f"{dbid}={url}").close()
    keys = [f"key-{number}" for number in range(40)]
    answers: list[tuple[str, int, int, bool]] = []
    errors: list[GariviniError] = []

    def insert() -> None:
        with Client(urls) as client:
            for key in keys:
                try:
                    answer = client.insert_job("f", unique=key)
                    answers.append((key, answer.jobid, answer.dbid, answer.new))
                except GariviniError as error:
                    errors.append(error)

    threads = [threading.Thread(target=insert) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Client(urls) as client:
        jobs = {job.uniqkey: (job.jobid, job.dbid) for job in client.list_jobs(limit=1000)}
        assert len(client.list_jobs(limit=1000)) == len(keys)
    assert Counter(key for key, *_, new in answers if new) == Counter(keys)
    assert all((jobid, dbid) == jobs[key] for key, jobid, dbid, _ in answers)
    assert {dbid for _, dbid in jobs.values()} == {1, 2}


def _key(client: Client, dbid: int) -> str:
    keys = (f"key-{number}" for number in range(1000))
    return next(key for key in keys if client.shards.home("note", key).dbid == dbid)
