"""Our connection of PyMySQL's writes values as PyMySQL does."""

from typing import Any, TypeVar

import pytest
from pymysql import connections
from pymysql.constants import SERVER_STATUS

from garivini.model.state import State
from garivini.store.dialects import pymysql_connection
from garivini.store.dialects.pymysql_connection import Connection

_C = TypeVar("_C", bound="connections.Connection[Any]")


def apart(kind: type[_C]) -> _C:
    """A connection that is not open, with what a server said of itself."""
    connection = kind(defer_connect=True)
    vars(connection)["server_status"] = 0
    return connection


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**63,
        None,
        True,
        False,
        State.DEAD,
        1.5,
        b"\0'\\",
        b"",
        "",
        "name",
        "it's",
        "a\\b",
        "ä" * 99,
        [1, None, "a"],
    ],
)
def test_a_value_is_written_as_pymysql_writes_it(value: Any) -> None:
    ours, theirs = apart(Connection), apart(connections.Connection)
    assert [ours.escape(value) for _ in range(2)] == [theirs.escape(value)] * 2


def test_a_text_is_written_by_the_mode_of_now() -> None:
    ours = apart(Connection)
    assert ours.escape("a\\b") == r"'a\\b'"
    vars(ours)["server_status"] = SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES
    assert ours.escape("a\\b") == r"'a\b'"


def test_no_more_texts_are_kept_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pymysql_connection, "_TEXTS", 3)
    ours = apart(Connection)
    assert [ours.escape(str(number)) for number in range(9)] == [f"'{number}'" for number in range(9)]
    assert len(ours._plain) <= 3
