"""Databases for tests of every part: empty, with the tables in place, and each a test's own."""

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import create_engine

from garivini.config import DatabaseSettings
from garivini.store.database import Database


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
