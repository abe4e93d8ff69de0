"""How a MySQL database gets its tables, and one of the Perl system what is missing in it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import pymysql
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, make_url

from garivini.cli import cli
from garivini.errors import ConflictError, RefusedError, SchemaError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.new_jobs import new_job
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.dialects import mysql
from garivini.store.schema import SCHEMA, migration_sql
from tests.databases import numbers
from tests.sql_servers import SCHEMES, MariaDB
from tests.store.test_errors import Opener, insert

pytestmark = pytest.mark.servers

#: The table as the Perl system makes it (contract, part 2).
ORIGINAL: Final = """
CREATE TABLE job (
  jobid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  funcname VARCHAR(200) NOT NULL,
  arg MEDIUMBLOB,
  uniqkey VARCHAR(255) NULL,
  run_after INT UNSIGNED NOT NULL,
  coalesce VARCHAR(255) NULL,
  flag ENUM('controller','shim') DEFAULT 'shim',
  failcount TINYINT UNSIGNED NOT NULL DEFAULT 0,
  INDEX (run_after),
  UNIQUE (funcname, uniqkey)
) ENGINE={engine} DEFAULT CHARSET={charset}
"""
LANE: Final = Lane("f", State.WAITING, "normal", 0)


class Place:
    """A database to be upgraded."""

    def __init__(self, server: MariaDB, url: str) -> None:
        self.url = url
        self._server = server
        self._name = url.rpartition("/")[2]

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._server.execute(sql, self._name)

    def script(self, text: str) -> None:
        """Run what `db sql` prints, as its reader does."""
        for statement in text.split(";\n"):
            if statement.strip():
                self.execute(statement)

    def tables(self) -> set[str]:
        return {name for (name,) in self.execute("SHOW TABLES")}

    def shape(self) -> list[tuple[Any, ...]]:
        """Return the columns and indexes of the job table."""
        columns = self.execute("SHOW FULL COLUMNS FROM job")
        indexes = self.execute(
            "SELECT index_name, seq_in_index, column_name, non_unique FROM information_schema.statistics"
            " WHERE table_schema = DATABASE() AND table_name = 'job' ORDER BY 1, 2"
        )
        return [*columns, *indexes]


@pytest.fixture
def place(mariadb: MariaDB) -> Iterator[Place]:
    """An empty database."""
    with mariadb.database() as url:
        yield Place(mariadb, url)


@pytest.fixture
def original(request: pytest.FixtureRequest, place: Place) -> Place:
    """A database of the Perl system, with rows."""
    place.execute(ORIGINAL.format(engine="InnoDB", charset=getattr(request, "param", "latin1")))
    place.execute(
        "INSERT INTO job (funcname, uniqkey, run_after, coalesce, arg, flag, failcount) VALUES"
        " ('f', 'k', 1313572984, 'c', x'00ff', 'controller', 2),"
        " ('f', NULL, 1313572985, NULL, 'plain', DEFAULT, DEFAULT),"
        f" ('g', NULL, {NEVER}, NULL, NULL, NULL, DEFAULT)"
    )
    return place


class Perl:
    """A client, a QueueRunner and a worker of the Perl system: the statements that it runs."""

    def __init__(self, url: str) -> None:
        parts = make_url(url)
        self.connection = pymysql.connect(
            host=parts.host or "",
            port=parts.port or 0,
            user=parts.username,
            password=str(parts.password),
            database=parts.database,
            autocommit=True,
        )

    def _run(self, sql: str, *values: Any) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()

    def insert(self, arg: bytes, uniqkey: str | None = None) -> None:
        self._run(
            "INSERT IGNORE INTO job (funcname, uniqkey, run_after, coalesce, arg, flag)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            *("f", uniqkey, "UNIX_TIMESTAMP() + 0", None, arg, "shim"),
        )

    def claim(self, limit: int) -> list[int]:
        self._run("BEGIN")
        rows = self._run(
            "SELECT jobid, funcname, uniqkey, run_after, coalesce, arg, flag, failcount FROM job"
            " WHERE run_after <= UNIX_TIMESTAMP() ORDER BY run_after LIMIT %s FOR UPDATE",
            limit,
        )
        jobids = [row[0] for row in rows]
        if jobids:
            self._run("UPDATE job SET run_after = UNIX_TIMESTAMP() + 1000 WHERE jobid IN %s", jobids)
        self._run("COMMIT")
        return jobids

    def complete(self, jobid: int) -> None:
        self._run("DELETE FROM job WHERE jobid = %s", jobid)


# ---- new tables


def test_upgrade_that_is_there_already_changes_nothing(place: Place, opened: Opener) -> None:
    database = opened(place.url)
    database.upgrade()
    insert(database)
    before = place.shape()
    database.upgrade()
    assert place.shape() == before
    assert len(database.jobs()) == 1


def test_upgrade_by_several_at_once_makes_one_schema(place: Place, opened: Opener) -> None:
    databases = [opened(place.url) for _ in range(4)]
    start = threading.Barrier(4)

    def upgrade(database: Database) -> None:
        start.wait()
        database.upgrade()
        insert(database)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upgrade, databases))
    assert len(databases[0].jobs()) == 4
    assert place.execute("SELECT version_num FROM garivini_version") == [(SCHEMA,)]


def test_upgrade_waits_for_another_and_then_says_so(
    place: Place, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "UPGRADE_TIMEOUT", 1)
    with closing(Perl(place.url).connection) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(CONCAT('garivini ', LEFT(SHA2(DATABASE(), 256), 32)), 0)")
        with pytest.raises(ConflictError, match="another upgrade"):
            opened(place.url).upgrade()
    assert place.tables() == set()


@pytest.mark.parametrize("table", ["failure", "function", "garivini_database", "report", "finished"])
def test_upgrade_that_fails_half_way_goes_on_from_there(place: Place, opened: Opener, table: str) -> None:
    place.execute(f"CREATE TABLE `{table}` (x INT)")  # another program's
    database = opened(place.url)
    with pytest.raises(RefusedError, match=f"'{table}' already exists"):
        database.upgrade()
    place.execute(f"DROP TABLE `{table}`")
    database.upgrade()
    insert(database)
    assert database.functions() == {}


def test_upgrade_leaves_a_table_of_another_program_alone(place: Place, opened: Opener) -> None:
    place.execute("CREATE TABLE job (id INT, title TEXT)")
    before = place.shape()
    with pytest.raises(SchemaError, match="a table job that is another program's"):
        opened(place.url).upgrade()
    assert place.shape() == before


def test_upgrade_by_an_engine_of_the_caller_works(place: Place, opened: Opener) -> None:
    engine = create_engine(place.url.replace("mysql", SCHEMES[-1], 1))
    database = opened(engine)
    database.upgrade()
    insert(database)
    engine.dispose()


def test_what_db_sql_prints_makes_the_same_tables_and_takes_them_back(place: Place, opened: Opener) -> None:
    database = opened(place.url)
    database.upgrade()
    expected = place.shape()
    place.script(migration_sql("mysql", undo=True))
    assert place.tables() == {"garivini_version"}
    place.execute("DROP TABLE garivini_version")
    place.script(migration_sql("mysql"))
    assert place.shape() == expected
    database.check()
    insert(database)


# ---- a table of the Perl system


@pytest.mark.parametrize("original", ["latin1", "utf8mb3", "utf8mb4"], indirect=True)
def test_upgrade_of_the_perl_table_keeps_its_rows(original: Place, opened: Opener) -> None:
    before = original.execute("SELECT jobid, funcname, uniqkey, run_after, arg, flag, failcount FROM job")
    database = opened(original.url)
    with pytest.raises(SchemaError, match="run `garivini db upgrade`"):
        insert(database)
    database.upgrade()
    assert (
        original.execute("SELECT jobid, funcname, uniqkey, run_after, arg, flag, failcount FROM job")
        == before
    )
    assert [(lane.funcname, lane.due) for lane in database.lanes().lanes] == [("f", 1313572984)]
    first, second = database.claim(LANE, limit=10, lease=1000)
    assert (first.uniqkey, first.arg, first.flag, first.failcount) == ("k", b"\0\xff", "controller", 2)
    assert (first.attempt, first.state, first.priority) == (1, State.LEASED, "normal")
    assert (second.arg, second.flag) == (b"plain", "shim")
    assert database.insert([new_job("f", b"", uniqkey="k")]) == [Inserted(first.jobid, 1, new=False)]
    assert database.complete([first.jobid]) == {first.jobid}


@pytest.mark.parametrize("original", ["latin1", "utf8mb3", "utf8mb4"], indirect=True)
def test_upgrade_of_the_perl_table_keeps_its_collation_and_index(original: Place, opened: Opener) -> None:
    before = original.shape()
    opened(original.url).upgrade()
    after = original.shape()
    assert [entry for entry in before if entry not in after] == []
    added = {entry[0] for entry in after if entry not in before}
    columns = {
        "priority",
        "created",
        "attempt",
        "state",
        "since",
        "crashes",
        "lease_end",
        "runs",
        "expires",
        "has_successor",
        "partition",
        "headers",
        "bundle",
    }
    assert added == columns | {"job_lane"}


@pytest.mark.parametrize("original", ["latin1", "utf8mb3", "utf8mb4"], indirect=True)
def test_upgrade_of_the_perl_table_lets_its_programs_and_ours_go_on_together(
    original: Place, opened: Opener
) -> None:
    database = opened(original.url)
    perl = Perl(original.url)
    database.upgrade()
    original.execute("DELETE FROM job")
    perl.insert(b"by Perl", "a")
    (ours,) = database.insert([new_job("f", b"by Python", uniqkey="b")])
    perl.insert(b"again", "b")
    assert not database.insert([new_job("f", b"again", uniqkey="a")])[0].new
    (first,) = database.claim(LANE, limit=1, lease=1000)
    assert first.arg == b"by Perl"
    (second,) = perl.claim(10)
    assert second == ours.jobid
    # What the original's QueueRunner has handed out is ours to renew and to end from then on.
    (adopted,) = database.adopt([second], lease=1000)
    assert database.renew([adopted.handle], lease=1000) == {Handle(second, 1, 1)}
    perl.complete(first.jobid)
    database.complete([second])
    assert database.jobs() == []
    perl.connection.close()


@pytest.mark.slow
def test_upgrade_of_the_perl_table_lets_its_programs_work_on(place: Place, opened: Opener) -> None:
    place.execute(ORIGINAL.format(engine="InnoDB", charset="latin1"))
    place.execute(f"INSERT INTO job (funcname, run_after, arg) SELECT 'f', 0, 'x' FROM {numbers(100_000)}")
    stop = threading.Event()

    def work() -> int:
        perl, done = Perl(place.url), 0
        while not stop.is_set():
            try:
                perl.insert(b"more")
                for jobid in perl.claim(3):
                    perl.complete(jobid)
                    done += 1
            except pymysql.err.OperationalError as error:
                if error.args[0] != 1213:  # two of its kind meet in deadlocks, also without us
                    raise
        perl.connection.close()
        return done

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work) for _ in range(2)]
        try:
            database = opened(place.url)
            database.upgrade()
            claimed = database.claim(LANE, limit=1000, lease=60)
        finally:
            stop.set()
        done = [worker.result() for worker in working]
    assert all(done)
    assert len(claimed) == 1000
    assert len({job.jobid for job in claimed}) == 1000


def test_upgrade_of_the_perl_table_that_failed_half_way_goes_on_from_there(
    original: Place, opened: Opener
) -> None:
    rows = original.execute("SELECT jobid, funcname, uniqkey, run_after, arg, flag, failcount FROM job")
    columns = migration_sql("mysql", existing=True).split(";\n")[1]
    assert "ADD COLUMN attempt" in columns
    original.execute(columns)
    database = opened(original.url)
    database.upgrade()
    assert (
        original.execute("SELECT jobid, funcname, uniqkey, run_after, arg, flag, failcount FROM job") == rows
    )
    assert len(database.claim(LANE, limit=10, lease=60)) == 2


def test_upgrade_gives_up_soon_on_a_table_in_use(
    original: Place, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "LOCK_TIMEOUT", 1)
    perl = Perl(original.url)
    perl._run("BEGIN")
    perl._run("SELECT COUNT(*) FROM job")  # holds the table as it is until its end
    before = original.shape()
    database = opened(original.url)
    with pytest.raises(ConflictError, match="another transaction"):
        database.upgrade()
    assert original.shape() == before
    perl._run("COMMIT")
    database.upgrade()
    insert(database)
    perl.connection.close()


def test_upgrade_refuses_a_table_that_forgets_in_a_crash(place: Place, opened: Opener) -> None:
    place.execute(ORIGINAL.format(engine="MyISAM", charset="latin1"))
    with pytest.raises(SchemaError, match=r"MyISAM.*ALTER TABLE job ENGINE=InnoDB"):
        opened(place.url).upgrade()
    assert "attempt" not in {column[0] for column in place.shape()}


@pytest.mark.parametrize("how", ["upgrade", "sql"])
def test_downgrade_takes_back_what_was_added(original: Place, opened: Opener, how: str) -> None:
    before = original.shape()
    rows = original.execute("SELECT * FROM job")
    if how == "upgrade":
        opened(original.url).upgrade()
    else:
        original.script(migration_sql("mysql", existing=True))
        opened(original.url).check()
    original.script(migration_sql("mysql", existing=True, undo=True))
    assert original.shape() == before
    assert original.execute("SELECT * FROM job") == rows
    assert original.tables() == {"job", "garivini_version"}
    opened(original.url).upgrade()


def test_alembic_takes_back_what_it_added_and_leaves_the_jobs(original: Place, opened: Opener) -> None:
    from alembic import command

    from garivini.store import schema

    before = original.shape()
    opened(original.url).upgrade()
    engine = create_engine(original.url.replace("mysql", "mysql+pymysql", 1))
    with engine.begin() as connection:
        command.downgrade(schema._config(connection=connection), "base")
    engine.dispose()
    assert original.shape() == before
    assert original.tables() == {"job", "garivini_version"}


# ---- the command


def call(*words: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, words, env=environment)
    return result.exit_code, result.output


def test_db_upgrade_and_check_work(original: Place) -> None:
    assert call("db", "check", GARIVINI_DB=original.url)[0] == 1
    status, output = call("db", "upgrade", GARIVINI_DB=original.url)
    assert status == 0, output
    assert "is ready" in output
    assert call("db", "check", GARIVINI_DB=original.url)[0] == 0


def test_db_sql_prints_what_an_administrator_runs_on_a_table_of_the_perl_system() -> None:
    status, output = call("db", "sql", "mysql", "--existing")
    assert status == 0
    assert "ALGORITHM=INSTANT" in output
    assert "ALGORITHM=INPLACE, LOCK=NONE" in output
    assert "DROP COLUMN attempt" in call("db", "sql", "mysql", "--existing", "--undo")[1]
    assert "DROP TABLE" in call("db", "sql", "sqlite", "--undo")[1]
    assert isinstance(CliRunner().invoke(cli, ["db", "sql", "sqlite", "--existing"]).exception, UsageError)
