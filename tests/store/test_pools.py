"""The connections of pools that nothing refers to any more."""

import gc
import os
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from garivini.databases import DatabaseSettings
from garivini.store.pools import OwnPool


def is_open(connection: Any) -> bool:
    """Whether a driver's connection has not been closed on this side."""
    if not isinstance(connection, sqlite3.Connection):
        return bool(connection.open if hasattr(connection, "open") else not connection.closed)
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


@pytest.mark.parametrize("name", ["sqlite", "mariadb", "postgresql"])
def test_a_pool_that_is_collected_closes_its_idle_connections(name: str, urls: Callable[[str], str]) -> None:
    pool = OwnPool(DatabaseSettings(1, urls(name)))
    with pool.connection() as one, pool.connection() as other:
        pass
    assert is_open(one)
    assert is_open(other)
    del pool
    gc.collect()
    assert not is_open(one)
    assert not is_open(other)


def test_a_pool_that_is_collected_in_a_forked_process_leaves_the_connections_of_the_parent_open(
    urls: Callable[[str], str], postgresql: object
) -> None:
    pool = OwnPool(DatabaseSettings(1, urls("postgresql")))
    with pool.connection() as connection:
        (before,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    child = os.fork()
    if child == 0:
        try:
            del pool
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pool.connection() as connection:
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == (before,)
    pool.close()


def test_a_pool_that_is_collected_in_a_forked_process_closes_the_connections_made_there(
    urls: Callable[[str], str], postgresql: object
) -> None:
    pool = OwnPool(DatabaseSettings(1, urls("postgresql")))
    with pool.connection():
        pass
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pool.connection() as connection:
                pass
            del pool
            gc.collect()
            status = int(is_open(connection))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    pool.close()
