"""The private database servers that tests use, and whether they are what those tests rely on."""

import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy.engine import URL, make_url

from tests.processes import PATIENCE, alive, until
from tests.sql_servers import MariaDB, PostgreSQL, SQLServer, family

pytestmark = pytest.mark.servers

Errors = (pymysql.err.MySQLError, psycopg.Error)


@pytest.fixture(params=["mariadb", "postgresql"])
def server(request: pytest.FixtureRequest) -> SQLServer:
    """The session's server of each kind."""
    found: SQLServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["own_mariadb", "own_postgresql"])
def own_server(request: pytest.FixtureRequest) -> SQLServer:
    """A server of each kind that the test may do anything to."""
    found: SQLServer = request.getfixturevalue(request.param)
    return found


def connect(url: str | URL) -> Any:
    """Connect as a user of a URL."""
    parts = make_url(url)
    if parts.drivername == "postgresql":
        return psycopg.connect(parts.render_as_string(hide_password=False), autocommit=True)
    return pymysql.connect(
        host=parts.host or "",
        port=parts.port or 0,
        user=parts.username,
        password=str(parts.password),
        database=parts.database,
        autocommit=True,
    )


def run(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def test_an_ordinary_user_has_a_database_of_its_own(server: SQLServer) -> None:
    with server.database() as one, server.database() as other:
        with closing(connect(one)) as connection:
            run(connection, "CREATE TABLE t (a INT)")
            run(connection, "INSERT INTO t VALUES (1)")
            assert run(connection, "SELECT a FROM t") == [(1,)]
        connect(other).close()
        with pytest.raises(Errors):
            connect(make_url(other).set(database=make_url(one).database))


def test_no_user_gets_in_without_the_password(server: SQLServer) -> None:
    with server.database() as url:
        for known in (make_url(url), make_url(server.url).set(database=make_url(url).database)):
            for wrong in ("wrong", ""):
                with pytest.raises(Errors):
                    connect(known.set(password=wrong))
            connect(known).close()


def test_a_database_is_dropped_while_a_transaction_holds_its_table(server: SQLServer) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(server.database())
        connection = connect(url)
        run(connection, "CREATE TABLE t (a INT)")
        run(connection, "BEGIN")
        run(connection, "INSERT INTO t VALUES (1)")
        stack.close()
        with pytest.raises(Errors):
            run(connection, "SELECT 1")
        with pytest.raises(Errors):
            connect(url)


def test_it_listens_on_the_loopback_interface_alone(server: SQLServer) -> None:
    sockets = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == server.port
    }
    assert sockets == {f"0100007F:{server.port:04X}"}


def test_its_unix_sockets_are_in_its_folder(server: SQLServer) -> None:
    inodes = {str(path.readlink()) for path in Path(f"/proc/{server.pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    named = [row[7] for row in rows if f"socket:[{row[6]}]" in inodes and len(row) > 7]
    assert named == ([str(server.folder / "socket")] if isinstance(server, MariaDB) else [])


def test_it_runs_unprivileged_and_as_durable_as_in_production(server: SQLServer) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert "\nUid:\t0\t" not in status
    if isinstance(server, MariaDB):
        asked = (
            "SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite, @@log_bin, @@skip_name_resolve"
        )
        assert server.execute(asked) == [(1, 1, 0, 1)]
    else:
        asked = "SELECT current_setting(name) FROM unnest(%s::text[]) AS name"
        names = ["fsync", "synchronous_commit", "full_page_writes"]
        assert server.execute(asked, parameters=[names]) == [("on",)] * 3


def test_what_was_committed_survives_kill_and_restart(own_server: SQLServer) -> None:
    url, port = own_server.create_database(), own_server.port
    connection = connect(url)
    run(connection, "CREATE TABLE t (a INT)")
    run(connection, "INSERT INTO t VALUES (1)")
    run(connection, "BEGIN")
    run(connection, "INSERT INTO t VALUES (2)")
    processes = family(own_server.pid)
    own_server.kill()
    assert not any(map(alive, processes))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(Errors):
        run(connection, "COMMIT")
    own_server.restart()
    assert own_server.pid not in processes
    again = connect(url)
    assert run(again, "SELECT a FROM t") == [(1,)]
    again.close()


def test_a_restart_ends_open_connections_and_keeps_the_data(own_server: SQLServer) -> None:
    url = own_server.create_database()
    connection = connect(url)
    run(connection, "CREATE TABLE t (a INT)")
    own_server.restart()
    with pytest.raises(Errors):
        run(connection, "SELECT a FROM t")
    again = connect(url)
    assert run(again, "SELECT a FROM t") == []
    again.close()


def test_a_frozen_server_answers_when_it_is_thawed_and_not_before(own_server: SQLServer) -> None:
    connection = connect(own_server.create_database())
    answered = threading.Event()

    def ask() -> None:
        run(connection, "SELECT 1")
        answered.set()

    own_server.freeze()
    thread = threading.Thread(target=ask)
    thread.start()
    assert not answered.wait(0.3)
    # Nor does it let anyone in, though the kernel takes the connection.
    with socket.create_connection(("127.0.0.1", own_server.port), timeout=0.1) as client:
        client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
        with pytest.raises(TimeoutError):
            client.recv(1)
    own_server.thaw()
    assert answered.wait(PATIENCE)
    thread.join()
    connection.close()


def test_a_read_only_server_refuses_the_writes_of_connected_users(own_server: SQLServer) -> None:
    connection = connect(own_server.create_database())
    run(connection, "CREATE TABLE t (a INT)")

    refusals: list[str] = []

    def writes() -> bool:
        try:
            run(connection, "INSERT INTO t VALUES (1)")
        except Errors as error:
            refusals.append(str(error))
            return False
        return True

    assert writes()
    own_server.set_read_only(True)
    until(lambda: not writes(), "a write to be refused")
    assert run(connection, "SELECT DISTINCT a FROM t") == [(1,)]
    own_server.set_read_only(False)
    until(writes, "a write to be taken")
    assert all("read-only" in refusal for refusal in refusals), refusals
    connection.close()


@pytest.mark.parametrize("kind", [MariaDB, PostgreSQL])
@pytest.mark.parametrize("end", ["running", "stopped", "killed", "frozen"])
def test_nothing_is_left_of_a_closed_server(kind: type[SQLServer], end: str) -> None:
    server = kind()
    with server:
        processes = family(server.pid)
        {"running": lambda: None, "stopped": server.stop, "killed": server.kill, "frozen": server.freeze}[
            end
        ]()
    assert not any(map(alive, processes))
    assert not server.folder.exists()


@pytest.mark.parametrize("kind", ["MariaDB", "PostgreSQL"])
@pytest.mark.parametrize("end", ["pass", "server.freeze()"])
def test_a_server_ends_when_its_tests_are_killed(kind: str, end: str) -> None:
    text = f"""
import os, signal
from tests.sql_servers import {kind}, family
server = {kind}().start()
processes = family(server.pid)
{end}
print(server.folder, *processes, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, check=False)
    assert result.returncode == -signal.SIGKILL
    folder, *processes = result.stdout.split()
    until(lambda: not any(alive(int(pid)) for pid in processes), "the server to end")
    until(lambda: not Path(folder).exists(), "its folder to be removed")


@pytest.mark.parametrize("kind", [MariaDB, PostgreSQL])
def test_a_server_that_cannot_start_says_why_and_leaves_nothing(kind: type[SQLServer]) -> None:
    server = kind("no_such_setting=1")
    with pytest.raises(RuntimeError, match="no_such_setting"), server:
        pass
    assert not server.folder.exists()


@pytest.mark.parametrize("kind", [MariaDB, PostgreSQL])
def test_a_missing_server_is_an_error_that_names_the_package(
    kind: type[SQLServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=f"install the package {kind.package}"), kind():
        pass


@pytest.mark.parametrize(
    ("kind", "setting"), [(MariaDB, "max-connections=17"), (PostgreSQL, "max_connections=17")]
)
def test_settings_stay_over_a_restart(kind: type[SQLServer], setting: str) -> None:
    with kind(setting) as server:
        server.kill()
        server.restart()
        asked = "SHOW VARIABLES LIKE 'max_connections'" if kind is MariaDB else "SHOW max_connections"
        assert server.execute(asked)[0][-1] == "17"
