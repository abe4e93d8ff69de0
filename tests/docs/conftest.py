import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import (
    Client,
)
from garivini.cli.options import DEFAULT_DATABASE
from tests.databases import sqlite_url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a page, with its database."""
    sqlite_url(tmp_path, DEFAULT_DATABASE.removeprefix("sqlite:///"))
    monkeypatch.chdir(tmp_path)
    with Client(DEFAULT_DATABASE) as client:
        for database in client.shards:
            database.check()  # gives the database its id, as `garivini db upgrade` does
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("GARIVINI_DB", "GARIVINI_DB_FILE", "GARIVINI_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    logger = logging.getLogger("garivini")
    level, modules = logger.level, set(sys.modules)
    yield tmp_path
    logger.setLevel(level)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
