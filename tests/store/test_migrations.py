"""From each revision of the tables to the next and back, with rows in them, on each kind of database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine

from garivini.databases import DatabaseSettings
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback, Success
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store import schema
from garivini.store.database import Database, Lane
from tests.databases import numbers
from tests.sql_servers import SERVERS

DRIVERS = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


@pytest.fixture(params=["sqlite", *SERVERS])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
        yield engine
        engine.dispose()
        return
    with request.getfixturevalue(request.param).database() as url:
        name, _, rest = url.partition(":")
        engine = create_engine(f"{DRIVERS[name]}:{rest}")
        yield engine
        engine.dispose()


def execute(engine: Engine, sql: str) -> list[Any]:
    with engine.begin() as connection:
        result = connection.exec_driver_sql(sql)
        return list(result) if result.returns_rows else []


def migrate(engine: Engine, to: Callable[..., None], revision: str) -> None:
    with engine.begin() as connection:
        to(schema._config(connection=connection), revision)


def _name(number: int) -> str:
    """Return the name of a revision."""
    scripts = ScriptDirectory.from_config(schema._config()).walk_revisions()
    return next(script.revision for script in scripts if script.revision.startswith(f"{number:04}"))


def revision(engine: Engine) -> str:
    ((number,),) = execute(engine, "SELECT version_num FROM garivini_version")
    return str(number)


def test_upgrade_keeps_what_was_there_before_the_records(engine: Engine) -> None:
    migrate(engine, command.upgrade, "0001")
    assert revision(engine) == "0001"
    quoted = engine.dialect.identifier_preparer.quote("function")
    execute(engine, "INSERT INTO job (funcname, run_after) VALUES ('f', 1), ('f', 2)")
    execute(engine, "INSERT INTO failure VALUES (1, 1, 1, 'failed', 'E', 'm', 't', 'w')")
    execute(engine, f"INSERT INTO {quoted} (funcname, lease) VALUES ('f', 77)")
    database = Database(DatabaseSettings(1, engine))
    database.upgrade()
    assert revision(engine) == schema.SCHEMA
    assert [job.jobid for job in database.jobs()] == [1, 2]
    assert [record.error for record in database.failures(1)] == ["E"]
    assert database.functions() == {"f": FunctionPolicy(lease=77)}
    database.set_function("f", FunctionPolicy(retention=60))
    for job in database.claim(Lane("f", State.WAITING, "normal", 0), limit=2, lease=60):
        database.report([Report(job.handle, "data", b"x")])
        database.finish([Success(job.jobid, 1, b"r", retention=60)])
    assert database.finished(2) is not None


def test_downgrade_takes_back_the_records_and_upgrade_makes_them_again(engine: Engine) -> None:
    database = Database(DatabaseSettings(1, engine))
    database.upgrade()
    database.insert([new_job("f", b"")] * 2)
    database.set_function("f", FunctionPolicy(lease=77, retention=60))
    first, second = database.claim(Lane("f", State.WAITING, "normal", 0), limit=2, lease=60)
    database.report([Report(second.handle, "data", b"x")])
    database.settle([Setback(handle=second.handle, kind="failed")])
    database.finish([Success(first.jobid, 1, retention=60)])
    migrate(engine, command.downgrade, "0001")
    assert revision(engine) == "0001"
    assert execute(engine, "SELECT COUNT(*) FROM job") == [(1,)]
    database.upgrade()
    assert database.finished(first.jobid) is None
    assert database.reports(second.jobid) == []
    assert [record.kind for record in database.failures(second.jobid)] == ["failed"]
    assert database.functions() == {"f": FunctionPolicy(lease=77)}
    migrate(engine, command.downgrade, "base")
    database.upgrade()
    assert database.jobs() == []


def test_upgrade_keeps_the_leases_that_go_on(engine: Engine) -> None:
    migrate(engine, command.upgrade, "0002")
    rows = [(funcname, state) for funcname in ("f", "g", "h") for state in range(5)]
    values = ", ".join(f"('{name}', {state}, {1_700_000_000 + state})" for name, state in rows)
    execute(engine, f"INSERT INTO job (funcname, state, run_after) VALUES {values}")
    migrate(engine, command.upgrade, "0003")
    found = execute(engine, "SELECT state, run_after, lease_end, runs FROM job ORDER BY jobid")
    assert len(found) == len(rows)
    for state, run_after, lease_end, runs in found:
        assert (lease_end, runs) == (run_after if state in (1, 2, 3) else 0, 0)
    migrate(engine, command.downgrade, "0002")
    assert len(execute(engine, "SELECT * FROM job")[0]) == 14
    migrate(engine, command.upgrade, "0003")
    assert execute(engine, "SELECT state, run_after, lease_end, runs FROM job ORDER BY jobid") == found


@pytest.mark.servers
@pytest.mark.slow
def test_upgrade_adds_the_end_of_leases_to_a_large_table_at_once(request: pytest.FixtureRequest) -> None:
    with request.getfixturevalue("mariadb").database() as url:
        engine = create_engine(url.replace("mysql", "mysql+pymysql", 1))
        migrate(engine, command.upgrade, "0002")
        execute(
            engine,
            "INSERT INTO job (funcname, run_after, state, arg) SELECT CONCAT('f', seq MOD 5), seq,"
            f" IF(seq MOD 1000 = 0, 1 + seq MOD 3, 0), REPEAT('x', 100) FROM {numbers(200_000)}",
        )
        reads = "SHOW SESSION STATUS LIKE 'Handler_read_next'"  # of the one connection in the pool
        before = int(execute(engine, reads)[0][1])
        migrate(engine, command.upgrade, "0003")
        # The heads of the lanes and what is leased, not the backlog.
        assert int(execute(engine, reads)[0][1]) - before < 5000
        assert execute(engine, "SELECT COUNT(*) FROM job WHERE lease_end = run_after") == [(200,)]
        engine.dispose()


@pytest.mark.servers
@pytest.mark.parametrize(
    ("step", "done"), [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1), (5, 2), (5, 3)]
)
def test_upgrade_that_failed_half_way_goes_on_from_there(
    request: pytest.FixtureRequest, step: int, done: int
) -> None:
    """Only MySQL commits each statement by itself."""
    with request.getfixturevalue("mariadb").database() as url:
        engine = create_engine(url.replace("mysql", "mysql+pymysql", 1))
        migrate(engine, command.upgrade, _name(step - 1))
        running = f"-- Running upgrade {_name(step - 1)} -> {_name(step)}\n"
        statements = schema.migration_sql("mysql").split(running)[1].split(";\n")
        for statement in statements[:done]:
            execute(engine, "\n".join(line for line in statement.splitlines() if not line.startswith("--")))
        database = Database(DatabaseSettings(1, engine))
        database.upgrade()
        assert revision(engine) == schema.SCHEMA
        database.set_function("f", FunctionPolicy(retention=60))
        database.probe()
        engine.dispose()


@pytest.mark.parametrize("dialect", ["sqlite", "mysql", "postgresql"])
def test_sql_has_every_revision(dialect: str) -> None:
    printed = schema.migration_sql(dialect)
    for words in (
        *("CREATE TABLE job", "CREATE TABLE report", "CREATE TABLE finished", "ADD COLUMN retention"),
        "ADD COLUMN lease_end",
        "ADD COLUMN seconds",
    ):
        assert words in printed
    undone = schema.migration_sql(dialect, undo=True)
    assert undone.index(" report;") < undone.index(" failure;")


def test_upgrade_keeps_settings_of_before_the_policies(engine: Engine) -> None:
    migrate(engine, command.upgrade, "0003")
    quoted = engine.dialect.identifier_preparer.quote("function")
    execute(engine, f"INSERT INTO {quoted} (funcname, max_failures) VALUES ('f', 7)")
    database = Database(DatabaseSettings(1, engine))
    database.upgrade()
    assert execute(engine, f"SELECT declared, override, max_failures FROM {quoted}") == [(None, None, 7)]
    migrate(engine, command.downgrade, "0003")
    assert [tuple(row) for row in execute(engine, f"SELECT * FROM {quoted}")] == [
        ("f", None, None, None, None, 7, None)  # of revision 3
    ]
