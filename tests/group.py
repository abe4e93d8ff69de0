"""A private group of MySQL servers on the loopback interface (Group Replication), for tests."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import pymysql
from sqlalchemy import make_url

from tests.processes import PATIENCE, until
from tests.servers import free_port
from tests.sql_servers import MySQL
from tests.versions.known import VERSIONS, Version, chosen


def installed() -> Version | None:
    """Return the MySQL that this run uses, or else any that is installed; None without one."""
    found = (
        version for version in VERSIONS.values() if version.kind == "mysql" and version.template.exists()
    )
    return chosen("mysql") or next(found, None)


class Member(MySQL):
    """A member of a group."""

    version = installed()

    def __init__(self, number: int, password: str | None = None) -> None:
        assert self.version is not None, "MySQL is missing: `make versions`"
        super().__init__(
            f"server-id={number}",
            "log-bin=binlog",
            "gtid-mode=ON",
            "enforce-gtid-consistency=ON",
            "performance-schema=ON",  # which shows the members
            "report-host=127.0.0.1",
            f"plugin-dir={self.version.folder / 'usr/lib/mysql/plugin'}",
            "plugin-load-add=group_replication.so",
            "loose-group-replication-start-on-boot=OFF",
            "loose-group-replication-ip-allowlist=127.0.0.1",
            "loose-group-replication-recovery-get-public-key=ON",
            # A member is expelled as soon as its silence is noticed, which takes five seconds.
            "loose-group-replication-member-expel-timeout=0",
        )
        if password is not None:
            self.password = password
        #: Where it listens for the other members.
        self.group_address: Final = f"127.0.0.1:{free_port()}"

    @property
    def uuid(self) -> str:
        """The id by which the others know it."""
        return str(self.execute("SELECT @@GLOBAL.server_uuid")[0][0])

    def prepare(self, group: str, seeds: str) -> None:
        """Set it up for a group; it has not joined yet."""
        for name, value in {
            "group_name": group,
            "local_address": self.group_address,
            "group_seeds": seeds,
            # A new primary first applies what the former one has committed.
            "consistency": "BEFORE_ON_PRIMARY_FAILOVER",
        }.items():
            self.execute(f"SET GLOBAL group_replication_{name} = '{value}'")
        self.execute(
            f"CHANGE REPLICATION SOURCE TO source_user='root', source_password='{self.password}' "
            "FOR CHANNEL 'group_replication_recovery'"
        )
        # What its users file said is on every member already, and must not be told to the others.
        self.execute("RESET BINARY LOGS AND GTIDS")

    def begin(self) -> None:
        """Begin the group, as its first member."""
        self.execute("SET GLOBAL group_replication_bootstrap_group = ON")
        self.join()
        self.execute("SET GLOBAL group_replication_bootstrap_group = OFF")

    def join(self) -> None:
        """Join the group, and wait until it takes part."""
        self.execute("START GROUP_REPLICATION")
        until(lambda: self.port in self.online(), self._states, progress=self._position)

    def _position(self) -> object:
        """Return which transactions it has: one that joins again first gets those that it has missed."""
        return self.execute("SELECT @@GLOBAL.gtid_executed")

    def _states(self) -> object:
        asked = "SELECT member_port, member_state FROM performance_schema.replication_group_members"
        return f"member {self.port} among {self.execute(asked)}"

    def online(self) -> dict[int, str]:
        """Return the roles of the members that take part, by their ports."""
        rows = self.execute(
            "SELECT member_port, member_role FROM performance_schema.replication_group_members"
            " WHERE member_state = 'ONLINE'"
        )
        return {int(port): str(role) for port, role in rows}


class Group:
    """Members, of which one takes writes. ``url``: of a database, with the addresses of all of them."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        direct = make_url(members[0].create_database())
        name = direct.database or ""
        self.name = name
        hosts = ",".join(member.host for member in members)
        ports = ",".join(str(member.port) for member in members)
        self.url = f"mysql://{direct.username}:{direct.password}@/{name}?host={hosts}&port={ports}"

    def url_of(self, member: Member) -> str:
        """Return the URL with the address of one member."""
        return f"{self.url.partition('@')[0]}@{member.address}/{self.name}"

    @property
    def primary(self) -> Member:
        """The member that takes writes, as those who run know."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for member in self.members:
                with suppress(pymysql.err.OperationalError):
                    if member.online().get(member.port) == "PRIMARY" and member.execute(
                        "SELECT @@GLOBAL.super_read_only"
                    ) == [(0,)]:
                        return member
            time.sleep(0.02)  # it says nothing when it is elected
        raise AssertionError("no member takes writes")

    def kill_primary(self) -> None:
        """Kill the member that takes writes, and wait until another one does."""
        primary = self.primary
        primary.kill()
        self.members.remove(primary)
        assert self.primary is not primary

    def leave(self) -> Member:
        """Let the member that takes writes leave the group and go on by itself; return it."""
        primary = self.primary
        primary.execute("STOP GROUP_REPLICATION")
        self.members.remove(primary)
        assert self.primary is not primary
        return primary

    def rejoin(self, member: Member) -> None:
        """Let a member that has left take part again."""
        member.join()
        self.members.append(member)

    def switch_over(self) -> None:
        """Let another member take the writes; all go on."""
        primary = self.primary
        other = next(member for member in self.members if member is not primary)
        primary.execute(f"SELECT group_replication_set_as_primary('{other.uuid}')")
        until(lambda: self.primary is other, "the new primary")


@contextmanager
def group(size: int = 3) -> Iterator[Group]:
    """Run a group with a single primary."""
    with ExitStack() as stack:
        first = stack.enter_context(Member(1))
        members = [first]
        for number in range(2, size + 1):
            members.append(stack.enter_context(Member(number, first.password)))
        name, seeds = str(uuid.uuid4()), ",".join(member.group_address for member in members)
        for member in members:
            member.prepare(name, seeds)
        first.begin()
        for member in members[1:]:
            member.join()
        yield Group(members)
