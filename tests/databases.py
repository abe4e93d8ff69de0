"""Databases for tests of every part: empty, with the tables in place, and each a test's own."""

import re
import secrets
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import pymysql
from pymysql.cursors import DictCursor
from sqlalchemy import create_engine

from garivini.databases import DatabaseSettings
from garivini.store.database import Database
from tests.sql_servers import MariaDB, PostgreSQL


def sqlite_url(directory: Path, name: str = "jobs.db") -> str:
    """Put an upgraded SQLite file into ``directory``; return its URL. Its first user gives it an id."""
    path = directory / name
    path.write_bytes(_upgraded_file())
    return f"sqlite:///{path}"


@cache
def _upgraded_file() -> bytes:
    # Upgrading takes longer than most tests, so it is done once and copied.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "jobs.db"
        database = Database(DatabaseSettings(1, f"sqlite:///{path}"))
        database.upgrade()
        database.close()
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM garivini_database")
        engine.dispose()
        return path.read_bytes()


#: Those that a test may have written to.
TABLES: Final = (
    *("job", "failure", "function", "report", "finished", "schedule", "successor", "recent_key"),
    *(
        "turn",
        "turn_partition",
        "partition_rate",
        "outbox",
        "arrived",
        "batch",
        "batch_member",
        "garivini_database",
    ),
)


class PostgreSQLRoles:
    """A database as docs/how-to/database-roles.md makes it, with the URL of each of its three roles.

    Its clock can be set: ``clock.setting`` holds the time where one is set.
    """

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        self.name = f"jobs_{secrets.token_hex(4)}"
        password = secrets.token_hex(8)
        owner, runtime, viewer = (f"{self.name}_{role}" for role in ("owner", "runtime", "viewer"))
        self.owner, self.runtime, self.viewer = (
            f"postgresql://{role}:{password}@{server.host}:{server.port}/{self.name}"
            for role in (owner, runtime, viewer)
        )
        text = _roles("postgresql").replace("'secret'", f"'{password}'")
        self._statements = [
            re.sub(r"\bgarivini_(owner|runtime|viewer)\b", rf"{self.name}_\1", statement).replace(
                "DATABASE jobs ", f"DATABASE {self.name} "
            )
            for statement in text.split(";\n")
            if statement.strip()
        ]

    def __enter__(self) -> Self:
        tables = next(n for n, statement in enumerate(self._statements) if " ON job" in statement)
        for statement in self._statements[:tables]:
            self._server.execute(
                statement, "" if "DATABASE" in statement or "ROLE" in statement else self.name
            )
        database = Database(DatabaseSettings(1, self.owner))
        database.upgrade()
        database.close()
        self._connection = psycopg.connect(self.owner, autocommit=True)
        self._connection.execute("SET synchronous_commit = off")  # no test here cuts the power
        for statement in [*self._statements[tables:], *_CLOCK]:
            self._connection.execute(statement.encode())
        # What is first in the path hides the server's own function.
        for role in ("owner", "runtime", "viewer"):
            self._server.execute(f"ALTER ROLE {self.name}_{role} SET search_path = clock, pg_catalog, public")
        self.empty()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._server.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        for role in ("owner", "runtime", "viewer"):
            self._server.execute(f"DROP ROLE {self.name}_{role}")

    def empty(self) -> None:
        for table in TABLES:
            self._connection.execute(f"DELETE FROM {table}".encode())

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement as the owner."""
        cursor = self._connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


_CLOCK: Final = (
    "CREATE SCHEMA clock",
    "GRANT USAGE ON SCHEMA clock TO PUBLIC",
    "CREATE TABLE clock.setting (time timestamptz NOT NULL)",
    "GRANT SELECT ON clock.setting TO PUBLIC",
    """
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
      'SELECT coalesce((SELECT time FROM clock.setting), pg_catalog.clock_timestamp())'
    """,
)


def numbers(count: int) -> str:
    """Return a table of the numbers from 1 on, column ``seq``, as MariaDB and MySQL make it of nothing."""
    digits = " UNION ALL ".join(f"SELECT {digit} AS digit" for digit in range(10))
    places = range(len(str(count - 1)))
    number = " + ".join(f"{10**place} * place{place}.digit" for place in places)
    tables = ", ".join(f"({digits}) AS place{place}" for place in places)
    counted = f"SELECT 1 + {number} AS seq FROM {tables}"
    return f"(SELECT seq FROM ({counted}) AS counted WHERE seq <= {count} ORDER BY seq) AS numbers"


def mysql_plan(connection: Any, text: str, bound: Any) -> list[tuple[str, str, str, str]]:
    """Return table, access, key and the rest of each step of a statement's plan on MariaDB or MySQL."""
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {text}", bound)
        rows = cursor.fetchall()
    return [(row["table"] or "", row["type"], row["key"], row["Extra"] or "") for row in rows]


class MySQLRoles:
    """A database as docs/how-to/database-roles.md makes it, with the URL of each of its three roles."""

    def __init__(self, server: MariaDB) -> None:
        self._server = server
        self.name = f"jobs_{secrets.token_hex(4)}"
        password = secrets.token_hex(8)
        self.owner, self.runtime, self.viewer = (
            f"mysql://{self.name}_{role}:{password}@{server.host}:{server.port}/{self.name}"
            for role in ("owner", "runtime", "viewer")
        )
        text = _roles("mysql").replace("'secret'", f"'{password}'").replace("ON jobs.", f"ON {self.name}.")
        text = re.sub(r"\bgarivini_(owner|runtime|viewer)\b", rf"{self.name}_\1", text)
        text = text.replace("CREATE DATABASE jobs;", f"CREATE DATABASE {self.name};")
        self._statements = [statement for statement in text.split(";\n") if statement.strip()]

    def __enter__(self) -> Self:
        tables = next(n for n, text in enumerate(self._statements) if f"{self.name}.job " in text)
        for statement in self._statements[:tables]:
            self._server.execute(statement)
        database = Database(DatabaseSettings(1, self.owner))
        database.upgrade()
        database.close()
        for statement in self._statements[tables:]:
            self._server.execute(statement)
        self._connection = pymysql.connect(
            host=self._server.host,
            port=self._server.port,
            user="root",
            password=self._server.password,
            database=self.name,
            autocommit=True,
        )
        self.empty()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        for role in ("owner", "runtime", "viewer"):
            self._server.execute(f"DROP USER {self.name}_{role}@'%'")
        self._server.execute(f"DROP DATABASE {self.name}")

    def empty(self) -> None:
        for table in TABLES:
            self.execute(f"DELETE FROM `{table}`")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement as one who may do all."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


def _roles(name: str) -> str:
    """Return the SQL of the guide for one kind of database."""
    page = (Path(__file__).parents[1] / "docs/how-to/database-roles.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^<!-- roles: {name} -->\n```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks, f"no SQL for {name} in the guide"
    return re.sub(r"--.*", "", "".join(blocks))
