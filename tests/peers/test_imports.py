"""``garivini import``: jobs that the real gearmand and the real TheSchwartz have stored."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError

from garivini import Client, ConflictError, Job
from garivini.errors import OutcomeUnknownError
from garivini.gearman.packets import Type
from garivini.store import foreign_queues
from garivini.store.foreign_queues import START, ForeignQueue
from garivini.store.foreign_tables import Gearmand, TheSchwartz
from garivini.store.imports import import_jobs
from tests import commands, servers
from tests.databases import sqlite_url
from tests.gearman.peer import Peer
from tests.peers.databases import Place
from tests.processes import PATIENCE, command, until

pytestmark = pytest.mark.servers
HERE = Path(__file__).parent
DRIVERS = {"sqlite": "sqlite", "mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}
BYTES = bytes(range(256))
#: An id that needs more than 32 bits.
LARGE = 2**40
LATER = int(time.time()) + 5_000_000


@pytest.fixture
def source(database: Place, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database of the same kind as the target, for the other queue."""
    if database.kind == "sqlite":
        (tmp_path / "source.db").touch()
        yield Place("sqlite", f"sqlite:///{tmp_path}/source.db")
        return
    with request.getfixturevalue(database.kind).database() as url:
        yield Place(database.kind, url)


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements in one transaction; return the rows of the last one."""
    at = make_url(url)
    engine = create_engine(at.set(drivername=DRIVERS[at.drivername]))
    try:
        with engine.begin() as connection:
            results = [connection.exec_driver_sql(statement) for statement in statements]
            return [tuple(row) for row in results[-1]] if results[-1].returns_rows else []
    finally:
        engine.dispose()


@contextmanager
def gearmand(source: Place, folder: Path) -> Iterator[Peer]:
    """Run a gearmand that stores its queue in a database; yield a connection."""
    at = make_url(source.url)
    options = {
        "sqlite": ["libsqlite3", f"--libsqlite3-db={at.database}"],
        "mariadb": [
            *("MySQL", f"--mysql-host={at.host}", f"--mysql-port={at.port}", f"--mysql-db={at.database}"),
            *(f"--mysql-user={at.username}", f"--mysql-password={at.password}"),
        ],
        "postgresql": ["Postgres", f"--libpq-conninfo={source.url}"],
    }[source.kind]
    with servers.gearmand(folder, "--queue-type", *options) as address, Peer(address) as peer:
        yield peer


def table_of(source: Place) -> str:
    return "queue" if source.kind == "postgresql" else "gearman_queue"


def import_from(kind: str, source: Place, target: str, *options: str) -> commands.Ended:
    return commands.run("import", kind, *options, GARIVINI_IMPORT_DB=source.url, GARIVINI_DB=target)


def all_jobs(client: Client) -> list[Job]:
    return [job for database in client.shards for job in database.jobs(limit=10_000)]


# ---- gearmand


def test_import_gearmand_keeps_arguments_keys_priorities_and_times(
    database: Place, source: Place, client: Client, tmp_path: Path
) -> None:
    with gearmand(source, tmp_path) as peer:
        peer.submit(Type.SUBMIT_JOB_BG, b"plain", b"k1", BYTES)
        peer.submit(Type.SUBMIT_JOB_HIGH_BG, b"gr\xc3\xbc\xc3\x9fe", b"k2", b"")
        peer.submit(Type.SUBMIT_JOB_LOW_BG, b"plain", b"\xe2\x82\xac", b"low")
        peer.ask(Type.SUBMIT_JOB_EPOCH, b"plain", b"k4", str(LATER).encode(), b"later")
        peer.submit(Type.SUBMIT_JOB_BG, b"plain", b"", b"no key")
    trial = import_from("gearmand", source, database.url, "--dry-run")
    assert (trial.returncode, trial.stdout) == (0, "5 jobs can be imported, 0 left\n"), trial.stderr
    assert all_jobs(client) == []
    done = import_from("gearmand", source, database.url, "--flag", "controller")
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 jobs imported, 0 left\n", "")
    found = {job.uniqkey: job for job in all_jobs(client)}
    (generated,) = set(found) - {"k1", "k2", "€", "k4"}
    assert {(key, it.funcname, it.arg, it.priority) for key, it in found.items()} == {
        ("k1", "plain", BYTES, "normal"),
        ("k2", "grüße", b"", "high"),
        ("€", "plain", b"low", "low"),
        ("k4", "plain", b"later", "normal"),
        (generated, "plain", b"no key", "normal"),
    }
    assert LATER <= found["k4"].run_after <= LATER + 2
    assert found["k1"].run_after <= time.time() + 2
    assert {it.flag for it in found.values()} == {"controller"}
    assert execute(source.url, f"SELECT * FROM {table_of(source)}") == []


def test_import_gearmand_imports_a_job_that_was_stored_again_after_an_import(
    database: Place, source: Place, client: Client, tmp_path: Path
) -> None:
    for _ in range(2):
        with gearmand(source, tmp_path) as peer:
            peer.submit(Type.SUBMIT_JOB_BG, b"plain", b"same", b"same")
        assert import_from("gearmand", source, database.url).returncode == 0
        (job,) = all_jobs(client)
        client.complete_job(job)
    # gearmand does not read our rows, and starts on its table as before.
    assert import_from("gearmand", source, database.url).stdout == "0 jobs imported, 0 left\n"


@pytest.fixture
def stored(source: Place) -> Place:
    """A table as gearmand makes it, with the keys a to i."""
    blob = {"sqlite": "BLOB", "mariadb": "LONGBLOB", "postgresql": "BYTEA"}[source.kind]
    table = table_of(source)
    execute(
        source.url,
        f"CREATE TABLE {table} (unique_key VARCHAR(64), function_name VARCHAR(255), priority INT, "
        f"data {blob}, when_to_run INT, UNIQUE (unique_key, function_name))",
        f"INSERT INTO {table} VALUES " + ", ".join(f"('{key}', 'f', 1, '{key}', 0)" for key in "abcdefghi"),
    )
    return source


def test_import_names_the_rows_that_it_leaves(stored: Place, database: Place, client: Client) -> None:
    client.insert_job("f", b"here before", unique="a")
    table = table_of(stored)
    execute(
        stored.url,
        f"UPDATE {table} SET priority = 7 WHERE unique_key = 'b'",
        f"UPDATE {table} SET function_name = '{'long' * 60}' WHERE unique_key = 'c'",
        f"UPDATE {table} SET when_to_run = 2147000000 WHERE unique_key = 'd'",
    )
    done = import_from("gearmand", stored, database.url)
    assert (done.returncode, done.stdout) == (1, "5 jobs imported, 4 left\n")
    lines = [line.partition("not imported: ")[2] for line in done.stderr.splitlines()]
    job = all_jobs(client)[0]
    assert lines == [
        f"f a: job {job.dbid}:{job.jobid} has its unique key",
        "f b: its priority is 7",
        f"{'long' * 60} c: a function name has 1 to 200 bytes, this one has 240",
        "f d: it is due in more than ten years",
        "",
    ]
    assert sorted(key for (key,) in execute(stored.url, f"SELECT unique_key FROM {table}")) == list("abcd")
    assert import_from("gearmand", stored, database.url).stdout == "0 jobs imported, 4 left\n"
    assert sorted(it.uniqkey or "" for it in all_jobs(client)) == list("aefghi")
    with pytest.raises(DBAPIError):  # nothing of the import remains in the source
        execute(stored.url, "SELECT * FROM garivini_import")


def test_import_leaves_a_row_of_sqlite_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "source.db").touch()
    source = Place("sqlite", f"sqlite:///{tmp_path}/source.db")
    execute(
        source.url,
        "CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
        "when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))",
        "INSERT INTO gearman_queue VALUES ('a', CAST(x'ff' AS TEXT), 1, NULL, NULL), "
        "('a', 'f', 1, NULL, NULL), (CAST(x'ff' AS TEXT), 'f', 1, 'text', 0)",
    )
    url = sqlite_url(tmp_path)
    done = import_from("gearmand", source, url)
    assert (done.returncode, done.stdout) == (1, "1 job imported, 2 left\n"), done.stderr
    assert "cannot be encoded" in done.stderr
    with Client(url) as client:
        (job,) = all_jobs(client)
    assert (job.uniqkey, job.arg) == ("a", b"")


# ---- interruptions, on a table of gearmand


class Interrupted(Exception):
    """The process of an import ends here."""


def drive(source: Place, client: Client, kind: type[ForeignQueue] = Gearmand) -> int:
    queue: Any = kind(source.url)  # type: ignore[call-arg]  # both kinds have a default for the second one
    try:
        pages = import_jobs(queue, client.shards, dry_run=False)
        return sum(row.job is not None for page in pages for row in page)
    finally:
        queue.close()


@pytest.mark.parametrize("moved_before", [0, 1, 2])
def test_import_that_is_interrupted_after_the_insert_continues_without_a_second_job(
    stored: Place, client: Client, monkeypatch: pytest.MonkeyPatch, moved_before: int
) -> None:
    monkeypatch.setattr(foreign_queues, "PAGE_ROWS", 2)
    for key in "ad":  # rows that stay in the source move the bounds of the later pages
        client.insert_job("f", b"here before", unique=key)
    real, calls = Gearmand._delete, []

    def delete(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > moved_before:
            raise Interrupted
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Gearmand, "_delete", delete)
        with pytest.raises(Interrupted):
            drive(stored, client)
    ran = [job for job in all_jobs(client) if job.uniqkey not in ("a", "d")]
    for job in ran:
        client.complete_job(job)
    drive(stored, client)
    again = [job.uniqkey or "" for job in all_jobs(client) if job.uniqkey not in ("a", "d")]
    assert sorted([*again, *(job.uniqkey or "" for job in ran)]) == list("bcefghi")
    left = execute(stored.url, f"SELECT unique_key FROM {table_of(stored)}")
    assert sorted(key for (key,) in left) == ["a", "d"]


def test_import_whose_process_is_killed_imports_each_job_once(
    stored: Place, database: Place, client: Client, tmp_path: Path
) -> None:
    rows = [f"('{number:05}', 'g', 1, '{number}', 0)" for number in range(6000)]
    for start in range(0, len(rows), 500):
        execute(stored.url, f"INSERT INTO {table_of(stored)} VALUES {', '.join(rows[start : start + 500])}")
    environment = {"GARIVINI_IMPORT_DB": stored.url, "GARIVINI_DB": database.url}
    with command(tmp_path, "import", "gearmand", **environment) as running:
        until(lambda: count(client) >= 400, lambda: running.output)
        running.process.kill()
        assert running.process.wait(PATIENCE) == -signal.SIGKILL, "the import was faster than this test"
    assert import_from("gearmand", stored, database.url).returncode == 0
    found = sorted(job.uniqkey or "" for job in all_jobs(client))
    assert found == [*(f"{number:05}" for number in range(6000)), *"abcdefghi"]


def count(client: Client) -> int:
    return sum(count.jobs for database in client.shards for count in database.counts())


def test_import_whose_commit_is_lost_continues_without_a_second_job(
    stored: Place, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other order: the source's commit succeeds, and the import ends before it knows.
    real = ForeignQueue.move

    def move(*arguments: Any) -> Any:
        real(*arguments)
        raise OutcomeUnknownError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(ForeignQueue, "move", move)
        with pytest.raises(OutcomeUnknownError):
            drive(stored, client)
    assert drive(stored, client) == 0
    assert sorted(job.uniqkey or "" for job in all_jobs(client)) == list("abcdefghi")


def test_import_gives_each_job_of_several_databases_its_home_also_when_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source.db").touch()
    source = Place("sqlite", f"sqlite:///{tmp_path}/source.db")
    execute(
        source.url,
        "CREATE TABLE job (jobid INTEGER PRIMARY KEY, funcid INT, arg BLOB, uniqkey TEXT, insert_time INT, "
        "run_after INT, grabbed_until INT, priority INT, coalesce TEXT)",
        "CREATE TABLE funcmap (funcid INT, funcname TEXT)",
        "CREATE TABLE error (error_time INT, jobid INT, message TEXT)",
        "INSERT INTO funcmap VALUES (1, 'f')",
        "INSERT INTO job (jobid, funcid, arg, uniqkey, run_after, grabbed_until) VALUES "
        + ", ".join(f"({n}, 1, '{n}', {'NULL' if n % 2 else repr(str(n))}, 0, 0)" for n in range(1, 41)),
    )
    with Client([sqlite_url(tmp_path, f"{name}.db") for name in "abc"]) as client:
        with monkeypatch.context() as patch:
            patch.setattr(TheSchwartz, "_delete", _interrupt)
            with pytest.raises(Interrupted):
                drive(source, client, TheSchwartz)
        assert drive(source, client, TheSchwartz) == 40
        jobs = all_jobs(client)
        assert sorted(int(job.arg) for job in jobs) == list(range(1, 41))
        assert {job.dbid for job in jobs} == {1, 2, 3}
        for job in jobs:
            if job.uniqkey:
                assert client.shards.home("f", job.uniqkey).dbid == job.dbid


def _interrupt(*_: Any) -> None:
    raise Interrupted


def test_import_ends_if_another_process_imports_the_same_page(
    stored: Place, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Gearmand(stored.url), Gearmand(stored.url)
    one.begin()
    with one._transaction() as connection:
        page = one._begin_page(connection, START)
    # The other one takes the page for one that was interrupted, and moves it.
    moved = other.move(START, 0.0, _take)
    assert moved is not None
    assert len(moved.rows) == 9
    monkeypatch.setattr(one, "_begin_page", lambda *_: page)
    with pytest.raises(ConflictError, match="another process imports"):
        one.move(START, 0.0, _take)
    one.close()
    other.close()


def _take(_: object) -> dict[Any, str]:
    return {}


# ---- TheSchwartz


def make_tables(source: Place, prefix: str = "") -> None:
    """Create the tables of TheSchwartz, with the columns and keys of its own schema."""
    number, blob, serial = {
        "sqlite": ("INTEGER", "BLOB", "INTEGER PRIMARY KEY AUTOINCREMENT"),
        "mariadb": ("INTEGER UNSIGNED", "MEDIUMBLOB", "BIGINT UNSIGNED PRIMARY KEY AUTO_INCREMENT"),
        "postgresql": ("INTEGER", "BYTEA", "BIGSERIAL PRIMARY KEY"),
    }[source.kind]
    execute(
        source.url,
        f"CREATE TABLE {prefix}funcmap (funcid {serial}, funcname VARCHAR(255) NOT NULL UNIQUE)",
        f"CREATE TABLE {prefix}job (jobid {serial}, funcid INT NOT NULL, arg {blob}, uniqkey VARCHAR(255), "
        f"insert_time {number}, run_after {number} NOT NULL, grabbed_until {number} NOT NULL, "
        "priority SMALLINT, coalesce VARCHAR(255), UNIQUE (funcid, uniqkey))",
        f"CREATE TABLE {prefix}error (error_time {number} NOT NULL, jobid BIGINT NOT NULL, "
        "message VARCHAR(255) NOT NULL, funcid INT NOT NULL DEFAULT 0)",
        f"CREATE TABLE {prefix}exitstatus (jobid BIGINT PRIMARY KEY, funcid INT NOT NULL DEFAULT 0, "
        f"status SMALLINT, completion_time {number}, delete_after {number})",
    )


def test_import_theschwartz_keeps_keys_times_and_failures(
    database: Place, source: Place, client: Client
) -> None:
    make_tables(source)
    perl = ["perl", str(HERE / "theschwartz.pl"), *source.dbi, str(LATER)]
    ended = subprocess.run(perl, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (0, "held\n"), ended.stderr
    done = import_from("theschwartz", source, database.url)
    assert (done.returncode, done.stdout) == (1, "5 jobs imported, 1 left\n"), done.stderr
    assert "not imported: Holding 6: a worker of TheSchwartz holds it" in done.stderr
    found = {job.funcname: job for job in all_jobs(client)}
    assert found["plain"].arg == b"\x00\xff\x80"
    keyed = found["keyed"]
    assert (keyed.arg, keyed.uniqkey, keyed.coalesce, keyed.priority) == (b"one", "key", "group", "high")
    assert found["plain"].priority == "normal"
    assert LATER <= found["later"].run_after <= LATER + 2
    failing = found["Failing"]
    assert (failing.arg, failing.failcount, failing.attempt, failing.state.name) == (b"host", 2, 2, "WAITING")
    assert failing.run_after <= time.time() + 2
    assert [(it.attempt, it.kind, it.message) for it in client.failures(failing)] == [
        (1, "failed", "no answer from host"),
        (2, "failed", "no answer from host"),
    ]
    # Perl's own form of data stays as it is, for a worker in Perl.
    thawed = subprocess.run(
        ["perl", "-MStorable", "-e", "local $/; print Storable::thaw(<STDIN>)->{of}"],
        input=found["data"].arg,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    assert thawed.stdout == b"Perl"
    assert execute(source.url, "SELECT jobid FROM job") == [(6,)]


def test_import_theschwartz_leaves_a_failed_job_whose_key_is_taken(
    database: Place, source: Place, client: Client
) -> None:
    make_tables(source, "my_")
    execute(
        source.url,
        "INSERT INTO my_funcmap (funcname) VALUES ('f')",
        "INSERT INTO my_job (jobid, funcid, uniqkey, run_after, grabbed_until) VALUES (1, 1, 'k', 0, 0), "
        f"({LARGE}, 1, 'l', 0, 0), ({LARGE + 1}, 7, NULL, 0, 0)",
        f"INSERT INTO my_error (error_time, jobid, message) VALUES (5, 1, 'x'), (5, {LARGE}, 'x')",
    )
    client.insert_job("f", b"", unique="k")
    done = import_from("theschwartz", source, database.url, "--prefix", "my_")
    assert (done.returncode, done.stdout) == (1, "1 job imported, 2 left\n"), done.stderr
    assert "f 1: job 1:" in done.stderr
    assert "has its unique key" in done.stderr
    assert f"not imported: {LARGE + 1}: no row of funcmap has the function id 7" in done.stderr
    assert [job.failcount for job in all_jobs(client) if job.uniqkey == "l"] == [1]


# ---- wrong sources


def test_import_names_a_table_that_is_missing_or_another(tmp_path: Path) -> None:
    (tmp_path / "source.db").touch()
    source = Place("sqlite", f"sqlite:///{tmp_path}/source.db")
    target = sqlite_url(tmp_path)
    nothing = import_from("gearmand", Place("sqlite", f"sqlite:///{tmp_path}/no.db"), target)
    assert (nothing.returncode, "cannot be used: unable to open" in nothing.stderr) == (2, True)
    missing = import_from("gearmand", source, target)
    assert missing.returncode == 2
    assert "has no table 'gearman_queue': name it with --table" in missing.stderr
    execute(source.url, "CREATE TABLE other (unique_key TEXT, data BLOB)")
    other = import_from("gearmand", source, target, "--table", "other")
    assert other.returncode == 2
    assert "it has no column function_name, priority, when_to_run" in other.stderr
    assert execute(source.url, "SELECT name FROM sqlite_master") == [("other",)]
    itself = import_from("gearmand", Place("sqlite", target), target)
    assert itself.returncode == 2
    assert "import into another file" in itself.stderr


def test_import_refuses_a_password_on_the_command_line_and_shows_none(tmp_path: Path) -> None:
    url = "mysql://me:secret@127.0.0.1/queue"
    refused = commands.run("import", "gearmand", url, GARIVINI_DB=sqlite_url(tmp_path))
    assert refused.returncode == 2
    assert "GARIVINI_IMPORT_DB" in refused.stderr
    assert "secret" not in refused.stderr
    url = f"mysql://me:secret@127.0.0.1:{servers.free_port()}/queue"
    unreachable = import_from("gearmand", Place("mariadb", url), sqlite_url(tmp_path))
    assert unreachable.returncode == 69
    assert "the source (mysql+pymysql://me@127.0.0.1" in unreachable.stderr
    assert "secret" not in unreachable.stderr
