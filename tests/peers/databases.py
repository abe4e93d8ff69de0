"""The databases that peers use, as each of them names one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.engine import URL, make_url

from garivini import Client
from tests.databases import sqlite_url
from tests.system import upgraded

#: The databases, as fixtures of ``tests/conftest.py`` name them, and the Gearman server beside each.
KINDS: Final = {"sqlite": "embedded", "mariadb": "gearmand", "postgresql": "gearmand"}


@dataclass(frozen=True, slots=True)
class Place:
    """An upgraded database."""

    kind: str
    url: str

    @property
    def pdo(self) -> list[str]:
        """What PDO needs."""
        at = self._at
        match self.kind:
            case "sqlite":
                return [f"sqlite:{at.database}", "", ""]
            case "mariadb":
                parts = f"mysql:host={at.host};port={at.port};dbname={at.database};charset=utf8mb4"
            case _:
                parts = f"pgsql:host={at.host};port={at.port};dbname={at.database}"
        return [parts, at.username or "", str(at.password)]

    @property
    def dbi(self) -> list[str]:
        """What Perl's DBI needs."""
        at = self._at
        match self.kind:
            case "sqlite":
                return [f"dbi:SQLite:dbname={at.database}", "", ""]
            case "mariadb":
                parts = f"dbi:mysql:host={at.host};port={at.port};database={at.database}"
            case _:
                parts = f"dbi:Pg:host={at.host};port={at.port};dbname={at.database}"
        return [parts, at.username or "", str(at.password)]

    @property
    def now(self) -> str:
        """The database's unix time in whole seconds, in SQL."""
        return {
            "sqlite": "strftime('%s', 'now')",
            "mariadb": "UNIX_TIMESTAMP()",
            "postgresql": "floor(extract(epoch FROM clock_timestamp()))::bigint",
        }[self.kind]

    @property
    def _at(self) -> URL:
        return make_url(self.url)


@contextmanager
def place(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Make a database of a test's own with its tables, which has the id 1."""
    if kind == "sqlite":
        url = sqlite_url(folder)
        _identify(url)
        yield Place(kind, url)
        return
    with request.getfixturevalue(kind).database() as url:
        upgraded(url).close()
        _identify(url)
        yield Place(kind, url)


def _identify(url: str) -> None:
    with Client(url) as client:
        for database in client.shards:
            database.check()
