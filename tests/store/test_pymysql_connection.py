"""Our connection of PyMySQL's writes values as PyMySQL does."""

from typing import Any

import pytest
from pymysql import connections

from garivini.job import State
from garivini.store.dialects.pymysql_connection import Connection


@pytest.mark.parametrize(
    "value", [0, -1, 2**63, None, True, False, State.DEAD, 1.5, b"\0'\\", [1, None, True]]
)
def test_a_value_is_written_as_pymysql_writes_it(value: Any) -> None:
    ours, theirs = (kind(defer_connect=True) for kind in (Connection, connections.Connection))
    assert ours.escape(value) == theirs.escape(value)
