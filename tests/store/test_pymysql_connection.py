"""Our connection of PyMySQL's writes values and reads rows as PyMySQL does."""

import io
from typing import Any, TypeVar

import pymysql
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


def packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number % 256]) + body


def text(value: bytes | None) -> bytes:
    """A value as a row has it."""
    if value is None:
        return b"\xfb"
    size = len(value)
    return (bytes([size]) if size < 251 else b"\xfc" + size.to_bytes(2, "little")) + value


END = b"\xfe\0\0\2\0"
#: Types and character sets: LONGLONG, BLOB of bytes, VAR_STRING of text, DOUBLE, NEWDECIMAL and DATE.
TYPES = ((8, 63), (252, 63), (253, 45), (5, 63), (246, 63), (10, 63))
ROWS: list[tuple[bytes | None, ...]] = [
    (b"18446744073709551615", b"\0\xff", "ä".encode(), b"1.5", b"2.50", b"2026-11-30"),
    (b"-1", b"", b"", None, None, None),
    (None, b"x" * 300, b"y" * 9000, b"0", b"-1", b"1999-01-01"),  # longer than the buffer
    *[(b"%d" % number, b"a", None, None, None, None) for number in range(500)],
]


def answer(rows: list[tuple[bytes | None, ...]], end: bytes = END) -> bytes:
    column = b"\x03def" + b"\x01t" * 5 + b"\x0c"
    columns = [
        column + charset.to_bytes(2, "little") + b"\x14\0\0\0" + bytes([kind]) + b"\0" * 5
        for kind, charset in TYPES
    ]
    bodies = [bytes([len(TYPES)]), *columns, END, *(b"".join(map(text, row)) for row in rows), end]
    return b"".join(packet(number, body) for number, body in enumerate(bodies, 1))


class Socket:
    """A socket that has received some bytes, and then its end."""

    def settimeout(self, timeout: float | None) -> None: ...

    def close(self) -> None: ...


def received(kind: type[_C], data: bytes) -> _C:
    connection = apart(kind)
    vars(connection).update(
        _sock=Socket(), _rfile=io.BufferedReader(io.BytesIO(data)), _next_seq_id=1, _current_timeout=None
    )
    return connection


def rows_of(connection: Any) -> Any:
    connection._read_query_result()
    return connection._result.rows


def test_rows_are_read_as_pymysql_reads_them() -> None:
    ours, theirs = (rows_of(received(kind, answer(ROWS))) for kind in (Connection, connections.Connection))
    assert ours == theirs
    assert [[*map(type, row)] for row in ours] == [[*map(type, row)] for row in theirs]
    assert len(ours) == len(ROWS)


def test_rows_leave_the_next_answer_in_the_buffer() -> None:
    ours = received(Connection, answer(ROWS[:2]) + answer(ROWS[3:5]))
    assert len(rows_of(ours)) == 2
    vars(ours)["_next_seq_id"] = 1
    assert [row[0] for row in rows_of(ours)] == [0, 1]


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS])
def test_rows_end_with_the_error_of_the_server(rows: list[tuple[bytes | None, ...]]) -> None:
    ours = received(Connection, answer(rows, end=b"\xff\xbd\x04#40001deadlock"))
    with pytest.raises(pymysql.OperationalError, match="deadlock"):
        rows_of(ours)


def test_rows_end_with_a_lost_connection() -> None:
    for size in range(200, len(answer(ROWS[:9])), 37):
        with pytest.raises(pymysql.OperationalError, match="Lost connection"):
            rows_of(received(Connection, answer(ROWS[:9])[:size]))


def test_rows_out_of_order_are_refused() -> None:
    data = bytearray(answer(ROWS[3:9]))
    data[-len(END) - 1] += 1  # the number of the last packet
    with pytest.raises(pymysql.InternalError, match="sequence number"):
        rows_of(received(Connection, bytes(data)))
