"""The hosts of a MariaDB or MySQL URL: how they are written, and which of them is connected to."""

from typing import Any

import pytest
from sqlalchemy import make_url

from garivini.databases import DatabaseSettings
from garivini.errors import RefusedError, UnreachableError, UsageError
from garivini.store.database import Database
from garivini.store.dialects.mysql_primary import PrimarySearch, ServerAddress, servers_of
from tests.servers import free_port


@pytest.mark.parametrize(
    ("place", "servers"),
    [
        ("one/jobs", []),
        ("one:3307/jobs", []),
        ("/jobs?unix_socket=/run/sock", []),
        ("one,two/jobs", [("one", 3306), ("two", 3306)]),
        ("one,two:3307/jobs", [("one", 3307), ("two", 3307)]),
        ("/jobs?host=one,two", [("one", 3306), ("two", 3306)]),
        ("/jobs?host=one&host=two&port=3307", [("one", 3307), ("two", 3307)]),
        ("/jobs?host=one,two,three&port=1,2,3", [("one", 1), ("two", 2), ("three", 3)]),
    ],
)
def test_servers_of_returns_the_hosts_of_a_url_that_names_several(
    place: str, servers: list[tuple[str, int]]
) -> None:
    assert servers_of(make_url(f"mysql://user:secret@{place}")) == servers


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("host=one,two&port=1,2,3", "2 hosts and 3 ports"),
        ("host=one,&port=1,2", "2 hosts"),
        ("host=one,two&port=x", "port=x in the URL"),
        ("host=one,two&port=1,70000", "from 1 to 65535"),
    ],
)
def test_servers_of_refuses_hosts_and_ports_that_do_not_match(query: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Database(DatabaseSettings(1, f"mysql://user:secret@/jobs?{query}"))


class Refusal(Exception):
    """The driver's error."""


class FakeServers:
    """Servers by host: True takes writes, False does not, a number is the code of a refusal."""

    def __init__(self, **servers: bool | int) -> None:
        self.servers: dict[str, bool | int] = servers
        self.asked: list[str] = []
        self.open = 0

    def connect(self, **named: Any) -> "FakeConnection":
        host = named["host"]
        self.asked.append(host)
        found = self.servers[host]
        if not isinstance(found, bool):
            raise Refusal(found, "words")
        self.open += 1
        return FakeConnection(self, host, takes_writes=found)

    def search(self) -> PrimarySearch:
        return PrimarySearch([ServerAddress(host, 1) for host in self.servers], self.connect, Refusal)


class FakeConnection:
    def __init__(self, servers: FakeServers, host: str, *, takes_writes: bool) -> None:
        self.host = host
        self._servers = servers
        self._takes_writes = takes_writes

    def cursor(self) -> "FakeCursor":
        return FakeCursor(self._takes_writes)

    def close(self) -> None:
        self._servers.open -= 1


class FakeCursor:
    def __init__(self, takes_writes: bool) -> None:
        self._takes_writes = takes_writes

    def execute(self, _: str) -> None: ...

    def fetchall(self) -> list[tuple[Any]]:
        return [(0 if self._takes_writes else 1,)]

    def close(self) -> None: ...


def test_search_connects_to_the_first_server_that_takes_writes_and_asks_it_first_from_then_on() -> None:
    servers = FakeServers(down=2003, replica=False, primary=True, other=True)
    connect = servers.search()
    assert connect().host == "primary"
    assert servers.asked == ["down", "replica", "primary"]
    assert servers.open == 1
    assert connect().host == "primary"
    assert servers.asked[3:] == ["primary"]
    servers.servers |= {"primary": False, "replica": True}
    assert connect().host == "replica"
    assert servers.asked[4:] == ["primary", "down", "replica"]


@pytest.mark.parametrize(
    ("servers", "code"),
    [
        ({"one": False, "two": False}, 1290),
        ({"one": 2003, "two": False}, 1290),
        ({"one": False, "two": 2003}, 1290),
        ({"one": 2003, "two": 1045}, 2003),
    ],
)
def test_search_names_every_server_if_none_takes_writes(servers: dict[str, bool | int], code: int) -> None:
    """A server that was reached and is read-only may soon be the primary, so the call is repeated."""
    with pytest.raises(Refusal) as raised:
        FakeServers(**servers).search()()
    assert raised.value.args[0] == code
    assert "one:1" in raised.value.args[1]
    assert "two:1" in raised.value.args[1]


def test_a_url_whose_hosts_are_all_down_is_unreachable() -> None:
    ports = f"{free_port()},{free_port()}"
    url = f"mysql://user:secret@/jobs?host=127.0.0.1,127.0.0.1&port={ports}"
    with pytest.raises(UnreachableError, match=ports.replace(",", ".*")) as raised:
        Database(DatabaseSettings(1, url)).jobs()
    assert "secret" not in str(raised.value)


@pytest.mark.servers
def test_a_url_whose_first_host_is_down_leads_to_the_second(mariadb: Any) -> None:
    with mariadb.database() as url:
        account, _, name = url.partition(f"@{mariadb.address}/")
        both = f"{account}@/{name}?host=127.0.0.1,127.0.0.1&port={free_port()},{mariadb.port}"
        database = Database(DatabaseSettings(1, both))
        database.upgrade()
        assert database.jobs() == []
        database.close()
        wrong = Database(DatabaseSettings(1, both.replace(account[-4:], "-no-")))
        with pytest.raises((RefusedError, UnreachableError)):
            wrong.jobs()
