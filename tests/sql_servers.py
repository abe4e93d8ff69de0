"""Private MariaDB, MySQL and PostgreSQL servers on the loopback interface, for tests of every part.

A server has its folder, its port, its passwords, and durable commits. As root it runs under another user, for
all programs refuse root. Nothing of this machine's settings is read. The machine's own programs run, or those
of the versions that ``GARIVINI_TESTS_SERVERS`` names.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import pymysql

from tests.processes import PATIENCE, alive
from tests.servers import free_port
from tests.versions.known import Version, chosen

#: Who runs the servers where the tests run as root.
UNPRIVILEGED: Final = "nobody"


#: Ends a server whose tests were killed: it reads from a pipe that they hold, and that closes with them.
_GUARD: Final = """
read -r _ && exit
kill -s CONT "$1"; kill -s QUIT "$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 "$1" || break; sleep 0.5; done
kill -s KILL "$1"; rm -rf "$2"
"""


class SQLServer(ABC):
    """A server of one's own, from its installation to the end of its folder.

    ``settings`` are further ``name=value`` of the server, and stay over its restarts.
    """

    #: The URL's scheme.
    scheme: str
    #: Debian's package of the server.
    package: str
    #: On which it ends in order without waiting for its clients.
    farewell: signal.Signals
    #: The version that runs, or None for the machine's own.
    version: Version | None = None

    def __init__(self, *settings: str) -> None:
        self.host: Final = "127.0.0.1"
        self.port: Final = free_port()
        self.password: str = secrets.token_hex(8)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        # Not pytest's folder: no other user may look into that, and a socket's path must be short.
        self.folder: Final = Path(tempfile.mkdtemp(prefix=f"garivini-{self.scheme}-"))
        self._data: Final = self.folder / "data"
        self._log: Final = self.folder / "log"
        if os.getuid() == 0:
            shutil.chown(self.folder, UNPRIVILEGED)

    @property
    def url(self) -> str:
        """URL of the user who may do all, without a database's name at its end."""
        return f"{self.scheme}://root:{self.password}@{self.host}:{self.port}/"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process of the running server."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    # ---- its life

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start it on its port and in its folder, and wait until it lets a client in."""
        assert self._process is None, "it runs already"
        if not self._data.exists():
            self._install()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user()
            )
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # not ended by the ^C that ends the tests
        )
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.execute("SELECT 1")
            except (pymysql.err.OperationalError, psycopg.OperationalError):
                time.sleep(0.01)  # it says nothing when it is ready
            else:
                return self
        if self._process.poll() is None:
            self.kill()
        self._process = None
        self._dismiss()
        raise RuntimeError(f"{self.scheme} does not start: {self._log.read_text(errors='replace')}")

    def stop(self) -> None:
        """Shut it down in order, whatever clients it has."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(self.farewell)
        self._process.wait(PATIENCE)
        self._process = None
        self._dismiss()

    def kill(self) -> None:
        """End all of it at once, as when the power fails."""
        assert self._process is not None, "it does not run"
        self.freeze()
        processes = family(self.pid)
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None
        self._dismiss()
        _wait(lambda: not any(map(alive, processes)))

    def restart(self) -> None:
        """Start it again on the same port and in the same folder; stop it before, if it runs."""
        if self._process is not None:
            self.stop()
        self.start()

    def reconfigure(self, *settings: str) -> None:
        """Start it again with other settings."""
        self._settings = settings
        self.restart()

    def freeze(self) -> None:
        """Let it hang: connections stay open, and nothing answers."""
        # The parent first: from then on it makes no more children.
        os.kill(self.pid, signal.SIGSTOP)
        _wait(lambda: _state(self.pid) == "T")
        children = family(self.pid)[1:]
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        _wait(lambda: all(_state(pid) in "TZ" for pid in children))

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for pid in reversed(family(self.pid)):
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._dismiss()
        shutil.rmtree(self.folder)

    def _dismiss(self) -> None:
        """End the guard: there is nothing to guard any more."""
        if self._guard is not None:
            self._guard.communicate(b"\n")
            self._guard = None

    # ---- its contents

    def create_database(self) -> str:
        """Create an empty database and an ordinary user who may do all in it; return that user's URL."""
        name, password = f"garivini_{secrets.token_hex(6)}", secrets.token_hex(8)
        self._create(name, password)
        return f"{self.scheme}://{name}:{password}@{self.host}:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop a database that ``create_database`` made, and its user, also while it is in use."""
        self._drop(url.rpartition("/")[2])

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create a database as ``create_database`` does, and drop it at the end."""
        url = self.create_database()
        try:
            yield url
        finally:
            self.drop_database(url)

    @abstractmethod
    def execute(self, sql: str, database: str = "", parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement as the user who may do all, commit it, return its rows."""

    @abstractmethod
    def lock_waits(self) -> int:
        """Return how many transactions wait for a lock just now."""

    def until_one_waits(self) -> None:
        """Wait until a transaction waits for a lock, which says nothing itself."""
        _wait(lambda: self.lock_waits() == 1)

    @abstractmethod
    def end_sessions(self, user: str) -> int:
        """End the sessions of a user; return how many there were, when they have ended."""

    @abstractmethod
    def set_read_only(self, on: bool) -> None:
        """Refuse, or take again, the writes of ordinary users, those connected included."""

    # ---- what differs

    @abstractmethod
    def _install(self) -> None: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _create(self, name: str, password: str) -> None: ...

    @abstractmethod
    def _drop(self, name: str) -> None: ...

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._as_user(),
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}")

    def _as_user(self) -> dict[str, Any]:
        path = f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin"
        options: dict[str, Any] = {
            "cwd": self.folder,
            "env": {"PATH": path, "HOME": str(self.folder), "TMPDIR": str(self.folder), "LC_ALL": "C.UTF-8"},
        }
        if os.getuid() == 0:
            options |= {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}
        return options

    def _secret(self, name: str, text: str) -> Path:
        """Write a file that only the server may read."""
        path = self.folder / name
        path.touch(0o600)
        path.write_text(text)
        if os.getuid() == 0:
            shutil.chown(path, UNPRIVILEGED)
        return path

    def _program(self, name: str, *folders: str) -> str:
        if self.version is not None:
            return self.version.program(name)
        program = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
        if program is None:
            raise RuntimeError(f"{name} is missing: `make servers`, or install the package {self.package}")
        return program


class MariaDB(SQLServer):
    """A MariaDB: no binary log, small buffers, each commit on the disk."""

    scheme = "mysql"
    package = "mariadb-server-core"
    farewell = signal.SIGTERM
    version = chosen("mariadb")
    #: The server's program.
    daemon = "mariadbd"

    def execute(self, sql: str, database: str = "", parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        connection = pymysql.connect(
            host=self.host,
            port=self.port,
            user="root",
            password=self.password,
            database=database or None,
            autocommit=True,
            connect_timeout=PATIENCE,
            read_timeout=PATIENCE,
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def lock_waits(self) -> int:
        # Not innodb_trx: who reads that more than ten times a second sees the same state for ever.
        return int(self.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1])

    def end_sessions(self, user: str) -> int:
        asked = "SELECT id FROM information_schema.processlist WHERE user = %s"
        sessions = set(self.execute(asked, parameters=[user]))
        for (session,) in sessions:
            try:
                self.execute(f"KILL {session}")
            except pymysql.err.OperationalError as error:
                if error.args[0] != 1094:  # it has gone by itself
                    raise
        _wait(lambda: sessions.isdisjoint(self.execute(asked, parameters=[user])))
        return len(sessions)

    def set_read_only(self, on: bool) -> None:
        self.execute(f"SET GLOBAL read_only = {on:d}")

    def _install(self) -> None:
        self._run(
            self._program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self._data}",
            "--auth-root-authentication-method=normal",
            "--skip-name-resolve",
            "--skip-test-db",
            "--innodb-log-file-size=32M",
            "--innodb-flush-log-at-trx-commit=0",  # no job is in it yet
            *self._base(),
        )

    def _command(self) -> list[str]:
        # Read before the first client gets in, at each start.
        users = self._secret("users.sql", self._users())
        return [
            self._program(self.daemon, "/usr/sbin", "/usr/local/sbin"),
            "--no-defaults",
            f"--datadir={self._data}",
            f"--init-file={users}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--performance-schema=OFF",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=64M",
            "--key-buffer-size=1M",
            *self._base(),
            *self._own(),
            *(f"--{setting}" for setting in self._settings),
        ]

    def _users(self) -> str:
        """Return the statements that give the user who may do all its password."""
        return f"ALTER USER root@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"

    def _base(self) -> list[str]:
        """Return where the files of a version are."""
        return [] if self.version is None else [f"--basedir={self.version.folder / 'usr'}"]

    def _own(self) -> list[str]:
        """Return the settings that MySQL does not know, or has otherwise."""
        return [
            "--character-set-server=utf8mb4",  # as Debian's settings, which are not read here
            "--collation-server=utf8mb4_general_ci",
            "--innodb-log-file-size=32M",
            "--aria-pagecache-buffer-size=2M",
        ]

    def _create(self, name: str, password: str) -> None:
        self.execute(f"CREATE DATABASE {name}")
        self.execute(f"CREATE USER {name}@'{self.host}' IDENTIFIED BY '{password}'")
        self.execute(f"GRANT ALL ON {name}.* TO {name}@'{self.host}'")

    def _drop(self, name: str) -> None:
        self.execute(f"DROP USER {name}@'{self.host}'")
        self.end_sessions(name)  # dropping waits for the transactions of others
        self.execute(f"DROP DATABASE {name}")


class MySQL(MariaDB):
    """A MySQL of a version that was installed: the same, with its own character set and collation."""

    package = "mysql-server-core"
    version = chosen("mysql")
    daemon = "mysqld"

    def _install(self) -> None:
        assert self.version is not None, "no version of MySQL is chosen"
        # Made once, when the version was installed: it takes 9 s.
        self._run("cp", "-R", str(self.version.template), str(self._data))

    def _own(self) -> list[str]:
        return ["--innodb-redo-log-capacity=32M", "--mysqlx=OFF", "--secure-file-priv=NULL"]

    def _users(self) -> str:
        root = "root@'127.0.0.1'"
        return (
            f"CREATE USER IF NOT EXISTS {root};\n"
            f"ALTER USER {root} IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {root} WITH GRANT OPTION;\n"
        )


class PostgreSQL(SQLServer):
    """A PostgreSQL: no unix socket, small buffers, each commit on the disk."""

    scheme = "postgresql"
    package = "postgresql-15"
    farewell = signal.SIGINT
    version = chosen("postgresql")

    def execute(self, sql: str, database: str = "", parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            host=self.host,
            port=self.port,
            user="root",
            password=self.password,
            dbname=database or "postgres",
            autocommit=True,
            connect_timeout=int(PATIENCE),
        ) as connection:
            # Also when writes are refused, this user's are not.
            connection.execute("SET default_transaction_read_only = off")
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def lock_waits(self) -> int:
        return int(self.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0])

    def end_sessions(self, user: str) -> int:
        asked = "SELECT pid FROM pg_stat_activity WHERE usename = %s"
        sessions = set(self.execute(asked, parameters=[user]))
        for session in sessions:
            self.execute("SELECT pg_terminate_backend(%s)", parameters=session)
        # The signal is only on its way: until it arrives, a session begins statements and is lost in one.
        _wait(lambda: sessions.isdisjoint(self.execute(asked, parameters=[user])))
        return len(sessions)

    def set_read_only(self, on: bool) -> None:
        self.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        self.execute("SELECT pg_reload_conf()")
        asked = "SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'"
        _wait(lambda: self.execute(asked) == [("on" if on else "off",)])

    def kill(self) -> None:
        lines = self._data.joinpath("postmaster.pid").read_text().splitlines()
        super().kill()
        # A machine without power has no memory either; the kernel would keep this for ever.
        if len(lines) > 6:
            self._run("ipcrm", "--shmem-id", lines[6].split()[1])

    def _install(self) -> None:
        self._run(
            self._binary("initdb"),
            f"--pgdata={self._data}",
            "--username=root",
            f"--pwfile={self._secret('password', self.password)}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",  # no job is in it yet
        )

    def _command(self) -> list[str]:
        settings = [
            f"listen_addresses={self.host}",
            f"port={self.port}",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",  # in the folder, which is removed
            "shared_buffers=32MB",
            "wal_level=minimal",
            "max_wal_senders=0",
            *self._settings,
        ]
        command = [self._binary("postgres"), "-D", str(self._data)]
        return command + [word for setting in settings for word in ("-c", setting)]

    def _create(self, name: str, password: str) -> None:
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        self.execute(f"CREATE DATABASE {name} OWNER {name}")
        self.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")

    def _drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")
        self.execute(f"DROP ROLE {name}")

    def _binary(self, name: str) -> str:
        # Debian keeps them out of the PATH, one folder a version; the newest is taken.
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        return self._program(name, *map(str, reversed(folders)))


#: What takes the place of MariaDB in a run: MySQL, where a version of it is chosen.
MariaDBOrMySQL: Final[type[MariaDB]] = MySQL if chosen("mysql") else MariaDB
#: The kinds of servers by name.
SERVERS: Final[dict[str, type[MariaDB] | type[PostgreSQL]]] = {
    "mariadb": MariaDBOrMySQL,
    "postgresql": PostgreSQL,
}
#: Whether this run has MySQL in the place of MariaDB.
ON_MYSQL: Final = chosen("mysql") is not None
#: The servers whose statements for inserts a run can use: MariaDB takes MySQL's too.
INSERTS_AS: Final = ("mysql",) if ON_MYSQL else ("mariadb", "mysql")
#: Whether the server in MariaDB's place offers TLS from its first start on, as MariaDB does since 11.4.
OFFERS_TLS: Final = ON_MYSQL or chosen("mariadb") is not None
#: The schemes of SQLAlchemy's engines that a run can use.
SCHEMES: Final = ("mysql+pymysql",) if ON_MYSQL else ("mysql+pymysql", "mariadb+pymysql")


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rsplit(")", 1)[1].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def _wait(condition: Callable[[], bool]) -> None:
    """Wait until a condition of another process holds; such a process tells us nothing."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
