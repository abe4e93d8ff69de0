"""Tables of a later version: what this one does with those that allow it, and with those that do not."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine

from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError, SchemaError
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Kind, Report, Setback, Success
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store import drain, schema
from garivini.store.database import Database, Lane
from garivini.store.dialects import mysql, postgresql
from tests.newer_version import ALLOWING, NEXT, NUMBER, REFUSING, upgrade
from tests.store.test_migrations import engine, execute, revision

__all__ = ["engine"]

LANE = Lane("f", State.WAITING, "normal", 0)


def test_revisions_allow_no_code_that_an_earlier_one_does_not() -> None:
    """Otherwise code that stops at a revision would run again at the next."""
    scripts = list(ScriptDirectory.from_config(schema._config()).walk_revisions())
    assert scripts[0].revision == schema.SCHEMA
    found = [schema._REVISION.fullmatch(script.revision) for script in reversed(scripts)]
    oldest = []
    for place, match in enumerate(found, 1):
        assert match is not None
        assert match[1] == f"{place:04}"
        oldest.append(match[2] or match[1])
    assert oldest == sorted(oldest)
    assert all(first <= script.revision[:4] for first, script in zip(oldest, reversed(scripts), strict=True))


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        (schema.SCHEMA, True),
        (f"9999_from_{NUMBER}", True),
        ("9999_from_0001", True),
        ("9999", False),
        (f"9999_from_{NEXT}", False),
        ("0001", False),
        ("0001_from_0001", False),
        ("", False),
        ("none", False),
        ("9999_from_", False),
        (f"9999_from_{NUMBER}_", False),
    ],
)
def test_is_usable_reads_the_oldest_code_from_the_name_of_a_revision(name: str, usable: bool) -> None:
    assert schema.is_usable(name) is usable


@pytest.fixture
def database(engine: Engine) -> Iterator[Database]:
    """An upgraded database, opened before a later version upgrades it."""
    database = Database(DatabaseSettings(1, engine))
    database.upgrade()
    database.check()
    yield database
    database.close()


def use(database: Database) -> None:
    """Do what clients, QueueRunners, workers and operators do."""
    database.probe()
    first, keyed, failing = (
        answer.jobid
        for job in (new_job("f", b"x"), new_job("f", b"x", uniqkey="k"), new_job("f", b"x"))
        for answer in database.insert([job])
    )
    assert database.insert([new_job("f", b"", uniqkey="k")])[0].jobid == keyed
    database.set_function("f", FunctionPolicy(retention=60))
    database.register_functions({"g": FunctionPolicy(renews=True)})
    assert database.functions()["f"] == FunctionPolicy(retention=60)
    jobs = {job.jobid: job for job in database.claim(LANE, limit=10, lease=60)}
    assert set(jobs) == {first, keyed, failing}
    handles = [job.handle for job in jobs.values()]
    assert database.renew(handles, lease=60) == set(handles)
    database.report([Report(handle, "data", b"line") for handle in handles])
    database.finish([Success(first, 1, b"result", retention=60)])
    assert database.complete([keyed]) == {keyed}
    (settled,) = database.settle([Setback(handle=jobs[failing].handle, kind="failed")])
    assert settled.result == "applied"
    assert [job.jobid for job in database.jobs()] == [failing]
    assert [record.kind for record in database.failures(failing)] == ["failed"]
    kept = database.finished(first)
    assert kept is not None
    assert kept.result == b"result"
    assert [report.body for report in database.reports(first)] == [b"line"]
    assert {count.funcname for count in database.counts()} == {"f"}
    database.lanes()
    database.complete([failing])


def test_check_accepts_newer_tables_that_allow_this_code(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    for _ in range(6):  # psycopg prepares a statement that has run five times
        use(database)
    upgrade(engine, tmp_path, ALLOWING)
    use(database)
    another = Database(DatabaseSettings(1, engine))
    assert another.check() == revision(engine) == ALLOWING
    use(another)
    assert execute(engine, "SELECT later FROM garivini_database") == [(7,)]


def test_upgrade_leaves_newer_tables_that_allow_this_code(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    upgrade(engine, tmp_path, ALLOWING)
    database.upgrade()
    assert revision(engine) == ALLOWING
    use(database)


def test_check_refuses_newer_tables_that_do_not_allow_this_code(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    upgrade(engine, tmp_path, REFUSING)
    another = Database(DatabaseSettings(1, engine))
    for call in (another.check, another.upgrade, another.jobs):
        with pytest.raises(
            SchemaError, match=f"has schema {NEXT}, this code needs {schema.SCHEMA}: update garivini"
        ):
            call()
    assert revision(engine) == REFUSING


@pytest.mark.servers
@pytest.mark.parametrize("engine", ["mariadb", "postgresql"], indirect=True)
def test_upgrade_gives_up_on_tables_in_use_and_programs_go_on(
    engine: Engine, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dialect in (mysql, postgresql):
        monkeypatch.setattr(dialect, "LOCK_TIMEOUT", 1)
    with engine.begin() as long:
        long.exec_driver_sql("SELECT * FROM job")
        with pytest.raises(ConflictError, match="was locked for too long"):
            upgrade(engine, tmp_path, ALLOWING)
        use(database)
    assert revision(engine) == schema.SCHEMA
    upgrade(engine, tmp_path, ALLOWING)
    use(database)


@pytest.mark.parametrize("call", ["jobs", "insert"])
def test_calls_that_find_no_column_check_the_schema_at_the_next_use(
    engine: Engine, database: Database, tmp_path: Path, call: str
) -> None:
    database.insert([new_job("f", b"")])
    upgrade(engine, tmp_path, REFUSING)
    execute(engine, "ALTER TABLE job RENAME COLUMN arg TO argument")
    calls: dict[str, Callable[[], object]] = {
        "jobs": database.jobs,
        "insert": lambda: database.insert([new_job("f", b"")]),
    }
    with pytest.raises(SchemaError, match="has no tables of this version"):
        calls[call]()
    with pytest.raises(
        SchemaError, match=f"has schema {NEXT}, this code needs {schema.SCHEMA}: update garivini"
    ):
        calls[call]()
    execute(engine, "ALTER TABLE job RENAME COLUMN argument TO arg")
    execute(engine, f"UPDATE garivini_version SET version_num = '{ALLOWING}'")
    calls[call]()


def test_drain_moves_jobs_between_tables_of_two_versions(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    upgrade(engine, tmp_path, ALLOWING)
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    target = Database(DatabaseSettings(2, other))
    target.upgrade()
    database.insert([new_job("f", b"x")])
    assert sum(drain.drain(database, lambda _: target)) == 1
    (target_job,) = target.jobs()
    assert (target_job.arg, database.jobs()) == (b"x", [])
    other.dispose()


# ---- rows of a later version


def put_in_state(engine: Engine, jobid: int, state: int) -> None:
    """Write a state that the tables of this version do not allow."""
    if engine.dialect.name == "postgresql":
        execute(engine, "ALTER TABLE job DROP CONSTRAINT job_state_check")
    elif engine.dialect.name != "sqlite":
        execute(engine, "ALTER TABLE job MODIFY state TINYINT UNSIGNED NOT NULL DEFAULT 0")
        if not getattr(
            engine.dialect, "is_mariadb", False
        ):  # where it is one of the table, not of the column
            execute(engine, "ALTER TABLE job DROP CONSTRAINT job_chk_2")
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql(f"UPDATE job SET state = {state} WHERE jobid = {jobid}")


def test_jobs_in_an_unknown_state_have_its_number_and_stay_as_they_are(
    engine: Engine, database: Database
) -> None:
    (known,) = database.insert([new_job("f", b"")])
    (answer,) = database.insert([new_job("f", b"", uniqkey="k")])
    put_in_state(engine, answer.jobid, 7)
    before = execute(engine, f"SELECT * FROM job WHERE jobid = {answer.jobid}")
    shown = database.get(answer.jobid)
    assert shown is not None
    assert (shown.state, shown.state.name, shown.state.known) == (7, "7", False)
    assert [job.state for job in database.jobs()] == [State.WAITING, 7]
    assert [(count.state.name, count.jobs) for count in database.counts()] == [("WAITING", 1), ("7", 1)]
    (again,) = database.insert([new_job("f", b"", uniqkey="k")])
    assert (again.jobid, again.new, again.state, again.dead) == (answer.jobid, False, 7, False)
    assert [job.jobid for job in database.claim(LANE, limit=10, lease=60)] == [known.jobid]
    assert {lane.state for lane in database.lanes().lanes} == {State.LEASED}
    for kind in get_args(Kind):
        (settled,) = database.settle([Setback(handle=Handle(answer.jobid, 1), kind=kind)])
        assert settled.result == "stale"
    assert not database.retry(answer.jobid)
    assert execute(engine, f"SELECT * FROM job WHERE jobid = {answer.jobid}") == before
    assert database.failures(answer.jobid) == []
    assert database.complete([answer.jobid]) == {answer.jobid}


def test_state_of_an_unknown_number_is_a_state_as_the_others() -> None:
    unknown = State(7)
    assert (unknown, unknown.name, int(unknown), f"{unknown:d}") == (7, "7", 7, "7")
    assert isinstance(unknown, State)
    assert unknown == State(7) != State(8)
    assert {unknown: 1}[State(7)] == 1
    assert pickle.loads(pickle.dumps(unknown)) == copy.deepcopy(unknown) == unknown
    assert [state.known for state in State] == [True] * 5
    assert unknown not in list(State)
    unreadable: Any = "7"
    with pytest.raises(ValueError, match="not a valid State"):
        State(unreadable)
