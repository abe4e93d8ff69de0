"""Two servers of which one replicates the other, and a fixed address that leads to the primary.

PostgreSQL replicates physically, MariaDB and MySQL by GTID. A switchover keeps the old primary running and
read-only, and it replicates nothing: so a connection that stays there sees the rows of the past.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, Self

from tests.processes import until
from tests.proxy import Proxy
from tests.sql_servers import ON_MYSQL, MariaDB, MySQL, PostgreSQL, SQLServer

#: What PostgreSQL needs to be replicated, beyond the settings of ``tests.sql_servers``.
_REPLICATED: Final = ("wal_level=replica", "max_wal_senders=5", "hot_standby=on")
#: What MySQL needs for it.
_LOGGED: Final = ("log-bin=binlog", "gtid-mode=ON", "enforce-gtid-consistency=ON")


class _Standby(PostgreSQL):
    """A physical copy of another server, which follows it."""

    def __init__(self, primary: PostgreSQL) -> None:
        super().__init__(*_REPLICATED)
        self.password = primary.password
        self._primary = primary

    def _install(self) -> None:
        self._run(
            self._binary("pg_basebackup"),
            f"--pgdata={self._data}",
            f"--dbname=host={self._primary.host} port={self._primary.port} user=root "
            f"password={self._primary.password}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )


class Pair(ABC):
    """A primary, a standby, and an address. ``url`` is that of a database behind the address."""

    primary: SQLServer
    standby: SQLServer

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self.proxy = stack.enter_context(Proxy(self.primary.address))
            direct = self.primary.create_database()
            self.user = direct.rpartition("/")[2]
            #: Of the database, with the servers' own addresses to be put into its place.
            self._url = direct.replace(self.primary.address, "{}")
            self.url = self.url_of(self.proxy.address)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url_of(self, address: str) -> str:
        """Return the URL of the database at another address."""
        return self._url.format(address)

    def url_of_both(self) -> str:
        """Return the URL with the hosts and ports of both servers, the primary first."""
        ports = f"{self.primary.port},{self.standby.port}"
        return f"{self.url_of('')}?host={self.primary.host},{self.standby.host}&port={ports}"

    def switch_over(self) -> None:
        """Make the standby the primary. The old one takes no writes, and is reachable."""
        self.primary.set_read_only(True)
        self._catch_up()
        self.fail_over()

    @abstractmethod
    def cut_off(self) -> None:
        """Let the standby receive nothing more: what is committed from now on, it lacks."""

    def fail_over(self) -> None:
        """Make the standby the primary, and lead the address to it."""
        self._promote()
        self.primary, self.standby = self.standby, self.primary
        self.proxy.point_to(self.primary.address)

    @abstractmethod
    def _start(self, stack: ExitStack) -> None:
        """Start both servers."""

    @abstractmethod
    def _catch_up(self) -> None:
        """Wait until the standby has what the primary has."""

    @abstractmethod
    def _promote(self) -> None:
        """Let the standby take writes."""


class PostgreSQLPair(Pair):
    """Two PostgreSQL.

    Args:
        synchronous: whether the primary waits for the standby at each commit.

    """

    primary: PostgreSQL
    standby: PostgreSQL

    def __init__(self, *, synchronous: bool = False) -> None:
        self._synchronous = synchronous

    def _start(self, stack: ExitStack) -> None:
        self.primary = stack.enter_context(PostgreSQL(*_REPLICATED))
        self.standby = stack.enter_context(_Standby(self.primary))
        if self._synchronous:
            self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.primary.execute("SELECT pg_reload_conf()")
            until(lambda: self._replicating() == "sync", "the standby")

    def _replicating(self) -> Any:
        rows = self.primary.execute("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'")
        return rows[0][0] if rows else None

    def _catch_up(self) -> None:
        ((there,),) = self.primary.execute("SELECT pg_current_wal_flush_lsn()")
        here = f"SELECT pg_last_wal_replay_lsn() >= '{there}'"
        until(lambda: self.standby.execute(here) == [(True,)], "the standby")

    def cut_off(self) -> None:
        self.standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.execute("SELECT pg_reload_conf()")
        until(lambda: self._replicating() is None, "the end of the replication")

    def _promote(self) -> None:
        assert self.standby.execute("SELECT pg_promote(true, 60)") == [(True,)]


class MariaDBPair(Pair):
    """Two MariaDB.

    Args:
        synchronous: whether the primary waits at each commit until the standby has received it.

    """

    primary: MariaDB
    standby: MariaDB

    def __init__(self, *, synchronous: bool = False) -> None:
        self._synchronous = synchronous

    def _start(self, stack: ExitStack) -> None:
        self.primary = stack.enter_context(
            MariaDB("log-bin=binlog", "server-id=1", "rpl-semi-sync-master-timeout=3600000")
        )
        self.standby = MariaDB(
            "log-bin=binlog",
            "server-id=2",
            "log-slave-updates",
            "read-only=1",
            f"rpl-semi-sync-slave-enabled={int(self._synchronous)}",
        )
        self.standby.password = self.primary.password  # replicated, like all that its users file says
        stack.enter_context(self.standby)
        self.standby.execute(
            f"CHANGE MASTER TO master_host='{self.primary.host}', master_port={self.primary.port}, "
            f"master_user='root', master_password='{self.primary.password}', master_use_gtid=slave_pos"
        )
        self.standby.execute("START SLAVE")
        if self._synchronous:
            # It shows a commit to nobody before the standby has it.
            self.primary.execute("SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC")
            self.primary.execute("SET GLOBAL rpl_semi_sync_master_enabled = ON")
            asked = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'"
            until(lambda: self.primary.execute(asked)[0][1] == "1", "the standby")

    def _catch_up(self) -> None:
        ((there,),) = self.primary.execute("SELECT @@GLOBAL.gtid_binlog_pos")
        assert self.standby.execute(f"SELECT MASTER_GTID_WAIT('{there}', 60)") == [(0,)]

    def cut_off(self) -> None:
        self.standby.execute("STOP SLAVE")

    def _promote(self) -> None:
        if self._synchronous:  # what it has received and not applied is acknowledged
            self.standby.execute("STOP SLAVE IO_THREAD")
            asked = "SELECT state FROM information_schema.processlist"
            done = "Slave has read all relay log"
            until(lambda: done in str(self.standby.execute(asked)), "the standby")
        self.standby.execute("STOP SLAVE")
        self.standby.set_read_only(False)


class MySQLPair(Pair):
    """Two MySQL."""

    primary: MySQL
    standby: MySQL

    def _start(self, stack: ExitStack) -> None:
        self.primary = stack.enter_context(MySQL("server-id=1", *_LOGGED))
        self.standby = MySQL("server-id=2", "read-only=1", *_LOGGED)
        self.standby.password = self.primary.password  # replicated, like all that its users file says
        stack.enter_context(self.standby)
        self.standby.execute(
            f"CHANGE REPLICATION SOURCE TO source_host='{self.primary.host}', "
            f"source_port={self.primary.port}, source_user='root', "
            f"source_password='{self.primary.password}', source_auto_position=1, get_source_public_key=1"
        )
        self.standby.execute("START REPLICA")

    def _catch_up(self) -> None:
        ((there,),) = self.primary.execute("SELECT @@GLOBAL.gtid_executed")
        assert self.standby.execute(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{there}', 60)") == [(0,)]

    def cut_off(self) -> None:
        self.standby.execute("STOP REPLICA")

    def _promote(self) -> None:
        self.standby.execute("STOP REPLICA")
        self.standby.set_read_only(False)


PAIRS: Final[dict[str, Callable[[], Pair]]] = {
    "mariadb": MySQLPair if ON_MYSQL else MariaDBPair,
    "postgresql": PostgreSQLPair,
}
#: Pairs that lose nothing when the primary is killed. MySQL has its plugin for it in another package.
SYNCHRONOUS: Final[dict[str, Callable[[], Pair]]] = {
    **({} if ON_MYSQL else {"mariadb": lambda: MariaDBPair(synchronous=True)}),
    "postgresql": lambda: PostgreSQLPair(synchronous=True),
}
