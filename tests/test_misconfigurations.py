"""Misconfigurations of real databases and servers: ``garivini doctor`` finds each, and its advice ends it."""

import json
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from garivini import Client, __version__
from garivini.cli import cli
from garivini.cli.doctor import gearmand as start
from garivini.cli.doctor import sql
from garivini.gearman.blocking import Client as GearmanClient
from garivini.gearman.packets import REQUEST, Type, encode
from garivini.gearman.protocol import Submission
from garivini.store.dialects import file_systems
from tests.databases import sqlite_url
from tests.pairs import PostgreSQLPair
from tests.poolers import pgbouncer
from tests.processes import command, until
from tests.servers import embedded, free_port, gearmand_process
from tests.sql_servers import ON_MYSQL, MariaDB, MariaDBOrMySQL, PostgreSQL, SQLServer
from tests.system import upgraded

Kind = Literal["sqlite", "mariadb", "postgresql"]


class Place:
    """A database with tables, its server, if it has one, and a Gearman server."""

    def __init__(self, server: SQLServer | None, url: str, address: str) -> None:
        self.server = server
        self.url = url
        self.address = address

    def execute(self, statement: str) -> None:
        """Run a statement in the database as the user who may do all."""
        assert self.server is not None
        self.server.execute(statement, make_url(self.url).database or "")

    def obey(self, advice: str) -> str:
        """Run the statements and commands that the advice has in backticks; return the URL."""
        orders = re.findall("`([^`]+)`", advice)
        assert orders
        for order in orders:
            if order.startswith("garivini "):
                words = shlex.split(order)[1:]
                assert CliRunner().invoke(cli, words, env={"GARIVINI_DB": self.url}).exit_code == 0
            elif order.startswith("chmod "):
                subprocess.run(order, shell=True, check=True)
            else:
                self.execute(order)
        return self.url

    @property
    def path(self) -> Path:
        """The file of an SQLite database."""
        return Path(make_url(self.url).database or "")

    def examine(self, url: str | None = None) -> list[dict[str, Any]]:
        """Return the findings of ``doctor`` that are not ok."""
        return examine(url or self.url, self.address)


#: Makes a misconfiguration. Yields the URL to examine, and a function that follows the advice and returns the
#: URL to use from then on.
Make = Callable[[Place], AbstractContextManager[tuple[str, Callable[[str], str]]]]


class Row(NamedTuple):
    """A misconfiguration, and what ``doctor`` says about it."""

    kind: Kind
    make: Make
    grade: Literal["advice", "fault"]
    says: str
    do: str


def by(*statements: str) -> Make:
    """Make a misconfiguration by these statements; its advice has those that end it."""

    @contextmanager
    def make(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
        for statement in statements:
            place.execute(statement)
        yield place.url, place.obey

    return make


def by_system(change: str) -> Make:
    """Make a misconfiguration of PostgreSQL by ALTER SYSTEM."""
    return by(f"ALTER SYSTEM SET {change}", "SELECT pg_reload_conf()")


# ---- SQLite


@contextmanager
def without_wal(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("PRAGMA journal_mode = delete")
    yield place.url, place.obey


@contextmanager
def readable_by_all(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    place.path.chmod(0o644)
    # Other users cannot enter the folders of tests.
    modes = {folder: folder.stat().st_mode for folder in place.path.parents}
    closed = {folder: mode for folder, mode in modes.items() if not mode & 0o001}
    for folder, mode in closed.items():
        folder.chmod(mode | 0o001)
    try:
        yield place.url, place.obey
    finally:
        for folder, mode in closed.items():
            folder.chmod(mode)


@contextmanager
def without_tables(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    place.path.unlink()
    yield place.url, place.obey


@contextmanager
def dead_job(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with Client(place.url) as client:
        client.cancel_job(client.insert_job("f"))

        def follow(advice: str) -> str:
            assert "then retry or delete them" in advice
            client.delete_jobs(client.list_jobs())
            return place.url

        yield place.url, follow


@contextmanager
def job_without_worker(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    host, _, port = place.address.rpartition(":")
    with Client(place.url) as client, socket.create_connection((host, int(port))) as worker:
        client.insert_job("f", run_after=0)

        def follow(advice: str) -> str:
            assert "any Gearman worker that registers this name" in advice
            worker.sendall(encode(REQUEST, Type.CAN_DO, b"f"))
            return place.url

        yield place.url, follow


@contextmanager
def ids_start_again(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with GearmanClient(place.address) as client:
        client.submit([Submission(b"garivini_wake", b"", b"1:999:1")])

    def follow(advice: str) -> str:
        assert "above 999" in advice
        with closing(sqlite3.connect(place.path)) as connection, connection:
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'job'")
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('job', 999)")
        return place.url

    yield place.url, follow


@contextmanager
def on_network_disk(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    """No network file system can be mounted here: the list of mounts says that the file is on one."""
    device = place.path.stat().st_dev
    mounts = place.path.with_name("mounts")
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw,noatime shared:1 - nfs4 host:/jobs rw\n"
    mounts.write_text(f"{file_systems.MOUNTS.read_text()}{line}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_systems, "MOUNTS", mounts)

        def follow(advice: str) -> str:
            assert "move the file" in advice
            patch.undo()
            return place.url

        yield place.url, follow


@contextmanager
def older_queue_runner(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    """A QueueRunner of this version, and one that reports another version."""
    host, _, port = place.address.rpartition(":")
    environment = {"GARIVINI_DB": place.url, "GARIVINI_JOB_SERVERS": place.address}
    with (
        command(place.path.parent, "run", "queue-runner", **environment),
        socket.create_connection((host, int(port))) as other,
        GearmanClient(place.address) as client,
    ):
        until(lambda: any(worker.functions for worker in client.workers()), "the QueueRunner")
        other.sendall(encode(REQUEST, Type.SET_CLIENT_ID, b"queue-runner/0.0.9"))
        other.sendall(encode(REQUEST, Type.CAN_DO, b"garivini_wake"))

        def follow(advice: str) -> str:
            assert "stop the QueueRunners of the older version" in advice
            other.close()
            return place.url

        yield place.url, follow


# ---- MariaDB and MySQL


@contextmanager
def held_snapshot_on_mysql(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    assert place.server is not None
    user = make_url(place.url)
    place.execute(f"GRANT PROCESS ON *.* TO {user.username}@'{user.host}'")
    with (
        pytest.MonkeyPatch.context() as patch,  # nobody waits for ten minutes here
        create_engine(place.url.replace("mysql:", "mysql+pymysql:"), poolclass=NullPool).connect() as other,
    ):
        patch.setattr(sql, "_SNAPSHOT", 1)
        other.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        other.exec_driver_sql("SELECT 1 FROM job")
        yield place.url, place.obey
        with suppress(DBAPIError):  # its session has ended
            other.rollback()


@contextmanager
def index_of_original(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    words = (
        ("functions", "set", "--default", "--envelope", "json"),
        ("functions", "set", "f", "--max-running", "2"),
        ("functions", "set", "g", "--fair"),
        ("functions", "set", "plain", "--lease", "60"),
    )
    for each in words:
        assert CliRunner().invoke(cli, each, env={"GARIVINI_DB": place.url}).exit_code == 0
    with by("CREATE INDEX run_after ON job (run_after)")(place) as made:
        yield made


@contextmanager
def without_doublewrite(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    server = place.server
    assert server is not None
    server.reconfigure(*SETTINGS["mariadb"], "innodb-doublewrite=OFF")

    def follow(advice: str) -> str:
        assert "into the server's [mysqld] section, and restart it" in advice
        server.reconfigure(*SETTINGS["mariadb"], "innodb-doublewrite=ON")
        return place.url

    yield place.url, follow


# ---- PostgreSQL


@contextmanager
def never_analyzed(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    later = (
        "INSERT INTO job (funcname, arg, run_after) SELECT 'f', '', 2000000000 FROM generate_series(1, 10000)"
    )
    with by("ALTER SYSTEM SET autovacuum_naptime = '1h'", "SELECT pg_reload_conf()", later)(place) as made:
        yield made


@contextmanager
def asynchronous_role(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with by(f"ALTER ROLE {make_url(place.url).username} SET synchronous_commit = off")(place) as made:
        yield made


@contextmanager
def held_snapshot(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with (
        pytest.MonkeyPatch.context() as patch,  # nobody waits for ten minutes here
        closing(psycopg.connect(place.url)) as other,  # its session ends before
    ):
        patch.setattr(sql, "_SNAPSHOT", 1)
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM job")
        yield place.url, place.obey


@contextmanager
def standby(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with PostgreSQLPair() as pair:
        primary = pair.url_of(pair.primary.address)
        upgraded(primary).close()
        pair._catch_up()
        yield pair.url_of(pair.standby.address), lambda _: primary


@contextmanager
def shared_pool(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    server = place.server
    assert server is not None
    with pgbouncer(place.url, default_pool_size=1) as through:
        with psycopg.connect(through, autocommit=True) as other:
            other.execute("SET extra_float_digits = 0")
            other.execute("SET statement_timeout = '1h'")

        def follow(_: str) -> str:
            # As with a user of its own: its sessions are new.
            server.end_sessions(make_url(place.url).username or "")
            return through

        yield through, follow


@contextmanager
def prepared_behind_pooler(place: Place) -> Iterator[tuple[str, Callable[[str], str]]]:
    with pgbouncer(place.url) as through:
        yield f"{through}?prepare_threshold=100", lambda _: through


#: Settings of each kind of server, with which ``doctor`` has nothing to say.
SETTINGS: Final = {
    "mariadb": (
        "max-allowed-packet=64M",
        "innodb-buffer-pool-size=512M",
        "log-bin=binlog",
        "sync-binlog=1",
        "server-id=1",
    ),
    "postgresql": ("wal_level=replica", "max_wal_senders=5"),
}
#: By name. Those of a Galera cluster are in ``tests/store/test_galera.py``, which has one; a PostgreSQL whose
#: commits wait for a standby, and a user without privileges, are in ``tests/test_doctor.py``.
ROWS: Final[dict[str, Row]] = {
    "SQLite without a write-ahead log": Row(
        "sqlite", without_wal, "fault", "journal_mode is delete", "garivini db upgrade"
    ),
    "an SQLite file that every user can read": Row(
        "sqlite", readable_by_all, "advice", "file_permissions is 0644", "chmod o-rwx"
    ),
    "no tables": Row("sqlite", without_tables, "fault", "", "garivini db upgrade"),
    "a dead job": Row("sqlite", dead_job, "advice", "1 job of f is dead", "garivini jobs list --state dead"),
    "a due job without a worker": Row(
        "sqlite", job_without_worker, "fault", "jobs of f are due, and no worker", "garivini worker MODULE"
    ),
    "an SQLite file on a network file system": Row(
        "sqlite",
        on_network_disk,
        "fault",
        "network_file_system is nfs4: SQLite's locks do not work",
        "move the file",
    ),
    "QueueRunners of different versions": Row(
        "sqlite",
        older_queue_runner,
        "advice",
        f"QueueRunners of different versions are connected: 0.0.9, {__version__}",
        "stop the QueueRunners of the older version",
    ),
    "ids that start again": Row(
        "sqlite", ids_start_again, "fault", "Gearman has 1 of its jobs from id 999 on", "restore.md"
    ),
    "commits that are not synced": Row(
        "mariadb",
        by("SET GLOBAL innodb_flush_log_at_trx_commit = 2"),
        "fault",
        "innodb_flush_log_at_trx_commit is 2: a crash may undo a commit",
        "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
    ),
    "a binary log that is not synced": Row(
        "mariadb", by("SET GLOBAL sync_binlog = 0"), "fault", "sync_binlog is 0", "SET GLOBAL sync_binlog = 1"
    ),
    "no doublewrite": Row(
        "mariadb", without_doublewrite, "fault", "innodb_doublewrite is", "innodb_doublewrite = ON"
    ),
    "a read-only server": Row(
        "mariadb",
        by("SET GLOBAL read_only = ON"),
        "fault",
        "it accepts no jobs",
        "SET GLOBAL read_only = OFF",
    ),
    "tables without transactions": Row(
        "mariadb",
        by("ALTER TABLE job ENGINE = MyISAM"),
        "fault",
        "job_engine is MyISAM: it has no transactions",
        "ALTER TABLE job ENGINE = InnoDB",
    ),
    "no default envelope on a table of the original": Row(
        "mariadb",
        by("CREATE INDEX run_after ON job (run_after)"),
        "fault",
        "default_envelope is not set",
        "garivini functions set --default",
    ),
    "the index of the original on a table with rules": Row(
        "mariadb",
        index_of_original,
        "advice",
        "functions_with_rules is 2: the table has the index for QueueRunners of the original",
        "DROP INDEX run_after ON job",
    ),
    "statistics that are not renewed": Row(
        "mariadb",
        by("ALTER TABLE job STATS_AUTO_RECALC = 0"),
        "advice",
        "stats_auto_recalc is off: the statistics of the table job are not renewed",
        "ALTER TABLE job STATS_AUTO_RECALC = 1",
    ),
    "a transaction on MariaDB or MySQL that keeps deleted rows": Row(
        "mariadb", held_snapshot_on_mysql, "advice", "oldest_snapshot is", "KILL "
    ),
    **(
        {}
        if ON_MYSQL
        else {
            "connections that are closed early": Row(
                "mariadb",
                by("SET GLOBAL wait_timeout = 10"),
                "advice",
                "wait_timeout is 10: seconds after which the server closes an idle connection",
                "SET GLOBAL wait_timeout = 28800",
            )
        }
    ),
    "small packets": Row(
        "mariadb",
        by("SET GLOBAL max_allowed_packet = 16777216"),
        "advice",
        "max_allowed_packet is 16777216: a job of 16 MB does not fit",
        "SET GLOBAL max_allowed_packet = 67108864",
    ),
    "a small buffer pool": Row(
        "mariadb",
        by("SET GLOBAL innodb_buffer_pool_size = 134217728"),
        "advice",
        "innodb_buffer_pool_size is 134217728: small for a table of a million jobs",
        "SET GLOBAL innodb_buffer_pool_size = 536870912",
    ),
    "few connections": Row(
        "mariadb",
        by("SET GLOBAL max_connections = 20"),
        "advice",
        "max_connections is 20",
        "SET GLOBAL max_connections = 151",
    ),
    "a log of every statement": Row(
        "mariadb",
        by("SET GLOBAL general_log = ON"),
        "advice",
        "general_log is",
        "SET GLOBAL general_log = OFF",
    ),
    "a large table that was never analyzed": Row(
        "postgresql",
        never_analyzed,
        "advice",
        "rows_not_analyzed is 10000: the table job has never",
        "ANALYZE job",
    ),
    "fsync off": Row(
        "postgresql", by_system("fsync = off"), "fault", "fsync is off", "ALTER SYSTEM SET fsync = on"
    ),
    "full_page_writes off": Row(
        "postgresql",
        by_system("full_page_writes = off"),
        "fault",
        "full_page_writes is off: a crash may damage pages",
        "ALTER SYSTEM SET full_page_writes = on",
    ),
    "autovacuum off": Row(
        "postgresql",
        by_system("autovacuum = off"),
        "fault",
        "autovacuum is off: deleted rows stay",
        "ALTER SYSTEM SET autovacuum = on",
    ),
    "autovacuum off for the table": Row(
        "postgresql",
        by("ALTER TABLE job SET (autovacuum_enabled = false)"),
        "fault",
        "job_autovacuum is false: deleted rows stay",
        "ALTER TABLE job RESET (autovacuum_enabled)",
    ),
    "read-only transactions": Row(
        "postgresql",
        by_system("default_transaction_read_only = on"),
        "fault",
        "transaction_read_only is on: it accepts no jobs",
        "ALTER SYSTEM RESET default_transaction_read_only",
    ),
    "a standby": Row(
        "postgresql", standby, "fault", "in_recovery is true: it is a standby", "use the primary"
    ),
    "a synchronous standby that is not there": Row(
        "postgresql",
        by_system("synchronous_standby_names = 'gone'"),
        "fault",
        "synchronous_standbys is 0: each commit waits for a standby",
        "ALTER SYSTEM RESET synchronous_standby_names",
    ),
    "a transaction that keeps deleted rows": Row(
        "postgresql", held_snapshot, "advice", "oldest_snapshot is", "SELECT pg_terminate_backend("
    ),
    "synchronous_commit off for the role": Row(
        "postgresql",
        asynchronous_role,
        "advice",
        "synchronous_commit is off: a crash may undo a transaction of your own",
        "RESET synchronous_commit",
    ),
    "a pool of PgBouncer shared with a program that SETs": Row(
        "postgresql",
        shared_pool,
        "fault",
        "settings_of_others is extra_float_digits, statement_timeout: another program has left these",
        "a database user of its own",
    ),
    "prepared statements behind PgBouncer": Row(
        "postgresql",
        prepared_behind_pooler,
        "advice",
        "prepare_threshold is given: the pooler may run a statement in a session in which",
        "remove prepare_threshold from the URL",
    ),
}


def examine(url: str, address: str) -> list[dict[str, Any]]:
    """Return the findings that are not ok."""
    return [finding for finding in findings(url, address) if finding["grade"] != "ok"]


def findings(url: str, address: str) -> list[dict[str, Any]]:
    """Return all that ``doctor`` says."""
    arguments = ["doctor", "--job-server", address, "-o", "json"]
    result = CliRunner().invoke(cli, arguments, env={"GARIVINI_DB": url}, catch_exceptions=False)
    found: list[dict[str, Any]] = json.loads(result.stdout)
    assert result.exit_code == any(finding["grade"] == "fault" for finding in found)
    return found


@pytest.fixture(scope="module")
def servers_of() -> Iterator[Callable[[Kind], SQLServer | None]]:
    """Gives a server of each kind, the module's own, whose settings the tests change."""
    started: dict[Kind, SQLServer | None] = {"sqlite": None}
    with ExitStack() as stack:

        def server_of(kind: Kind) -> SQLServer | None:
            if kind not in started:
                make: type[MariaDB] | type[PostgreSQL] = MariaDBOrMySQL if kind == "mariadb" else PostgreSQL
                started[kind] = stack.enter_context(make(*SETTINGS[kind]))
            return started[kind]

        yield server_of


@pytest.mark.servers
@pytest.mark.parametrize("name", ROWS)
def test_doctor_finds_a_misconfiguration_and_its_advice_ends_it(
    servers_of: Callable[[Kind], SQLServer | None], tmp_path: Path, name: str
) -> None:
    row = ROWS[name]
    server = servers_of(row.kind)
    with ExitStack() as stack:
        address = stack.enter_context(embedded())
        url = sqlite_url(tmp_path) if server is None else stack.enter_context(server.database())
        if server is not None:
            upgraded(url).close()
        place = Place(server, url, address)
        assert place.examine() == []
        examined, follow = stack.enter_context(row.make(place))
        (finding,) = eventually(lambda: place.examine(examined), lambda found: len(found) == 1)
        assert finding["grade"] == row.grade
        assert row.says in finding["says"]
        advice = finding["do"] or finding["says"]  # an error has its advice with it
        assert row.do in advice
        after = follow(advice)
        assert eventually(lambda: place.examine(after), lambda found: found == []) == []


def test_doctor_reports_that_it_may_not_see_transactions(own_mariadb: MariaDB) -> None:
    """It is a note: an ordinary user lacks the privilege, and works."""
    with own_mariadb.database() as url, embedded() as address:
        upgraded(url).close()

        def notes() -> list[str]:
            return [each["says"] for each in findings(url, address) if "were not checked" in each["says"]]

        (note,) = notes()
        assert (
            "transactions that keep deleted rows were not checked: the user lacks the privilege PROCESS"
            in note
        )
        own_mariadb.execute(f"GRANT PROCESS ON *.* TO {make_url(url).username}@'{own_mariadb.host}'")
        assert notes() == []


def eventually(
    read: Callable[[], list[dict[str, Any]]], ready: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """Return what is read when it is as expected, or after 5 s: servers reload in their time."""
    deadline = time.monotonic() + 5
    while not ready(found := read()) and time.monotonic() < deadline:
        # A reload reports nothing. InnoDB renews its list of transactions if it was not read for 0.1 s.
        time.sleep(0.3)
    return found


# ---- gearmand

#: By the option that is left out or added: the grade, and words of the finding.
STARTS: Final = {
    "--job-retries": ("fault", "no --job-retries: a job that kills its worker"),
    "--round-robin": ("advice", "no --round-robin: one function's jobs keep another's workers busy"),
    "--hashtable-buckets": ("advice", "--hashtable-buckets is 991: slow with more than"),
    "--keepalive": ("advice", "no --keepalive: the loss of a worker's machine is noticed only"),
    "--queue-type": ("advice", "it stores its own queue beside the database"),
}


@pytest.mark.servers
@pytest.mark.parametrize("option", STARTS)
def test_doctor_finds_a_gearmand_that_was_started_badly_and_its_advice_ends_it(
    tmp_path: Path, option: str
) -> None:
    grade, says = STARTS[option]
    url = sqlite_url(tmp_path)
    good = [word for word in start.ADVISED.split() if not word.startswith("--listen=")]  # given anyway
    bad = [word for word in good if word.partition("=")[0] != option]
    if bad == good:
        bad = [*good, f"{option}=builtin"]
    (finding,) = examine_started(tmp_path, url, bad)
    assert (finding["grade"], finding["says"].startswith(says)) == (grade, True)
    if "start it with " in finding["do"]:
        assert finding["do"] == f"start it with {start.ADVISED}"
    else:
        assert finding["do"].startswith(f"omit {option}")
    assert examine_started(tmp_path, url, good) == []


def examine_started(folder: Path, url: str, options: list[str]) -> list[dict[str, Any]]:
    """Return the findings about a gearmand that was started with these options."""
    address = f"127.0.0.1:{free_port()}"
    with gearmand_process(folder, address, start=options):
        return examine(url, address)


def test_every_misconfiguration_is_in_the_reference() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "doctor.md").read_text(encoding="utf-8")
    settings = {rule.setting for rules in sql._RULES.values() for rule in rules}
    assert [name for name in sorted(settings) if f"`{name}`" not in page] == []
