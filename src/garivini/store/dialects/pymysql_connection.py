"""A connection of PyMySQL's that writes values and reads rows faster. Imported only if it is used."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from pymysql import connections

#: Maximum number of texts whose form in a statement is remembered.
_TEXTS: Final = 1024
#: Maximum characters of a text whose form is remembered.
_LONGEST: Final = 64
#: The first byte of a value in a row: below this number, it is the length.
_NULL: Final = 251
#: Bytes before each packet: its length in three bytes, and its number.
_HEADER: Final = 4
#: From this first byte on, a packet is no row: the end of the rows, an error, or a row of over 16 MB.
_NOT_A_ROW: Final = 254
#: For a longer value, the number of bytes after the first byte that hold the length, by the first byte.
_LENGTHS: Final = {252: 2, 253: 3, 254: 8}
#: Converts the bytes of a value in a row.
_Read: TypeAlias = Callable[[bytes], Any]


class Connection(connections.Connection):
    """Writes values into a statement and reads rows as PyMySQL does, in fewer calls.

    Most values are whole numbers, above all ids, or arguments of jobs, or the same few names.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._plain: dict[str, str] = {}
        super().__init__(*arguments, **named)

    def escape(self, obj: Any, mapping: Any = None) -> Any:
        """Return a value in the form that a statement has."""
        kind = type(obj)
        if kind is int:
            return str(obj)
        if kind is bytes:
            return f"X'{obj.hex()}'"
        if obj is None:
            return "NULL"
        written = self._plain.get(obj) if kind is str else None
        if written is None:
            written = super().escape(obj, mapping)
            # A text that needs no escape has the same form in each sql_mode.
            if kind is str and len(obj) <= _LONGEST and written == f"'{obj}'":
                if len(self._plain) == _TEXTS:
                    self._plain.clear()
                self._plain[obj] = written
        return written

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        if unbuffered:
            return super()._read_query_result(unbuffered=True)  # type: ignore[misc]
        self._result: Any = None
        result = Result(self)
        result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status: Any = result.server_status
        return result.affected_rows


class Result(connections.MySQLResult):
    """Reads rows as PyMySQL does, in one loop over the columns instead of several calls per column.

    Most packets are rows that the socket's buffer has completely. This class reads them there, and leaves all
    others, such as errors and the end of the rows, to PyMySQL.
    """

    #: Of each column: encoding and converter.
    converters: list[tuple[str | None, Callable[[Any], Any] | None]]
    #: Of each column; None: the bytes are the value.
    _reads: list[_Read | None]

    def _get_descriptions(self) -> None:
        super()._get_descriptions()  # type: ignore[misc]
        self._reads = [_read_of(encoding, converter) for encoding, converter in self.converters]

    def _read_rowdata_packet(self) -> None:
        connection = self.connection
        rows: list[tuple[Any, ...]] = []
        while not self._check_packet_is_eof(packet := connection._read_packet()):  # type: ignore[attr-defined]
            rows.append(self._read_row_from_packet(packet))
            self._read_buffered(connection, rows)
        self.connection: Any = None  # it refers to this result
        self.affected_rows: int = len(rows)
        self.rows: tuple[tuple[Any, ...], ...] = tuple(rows)

    def _read_buffered(self, connection: Any, rows: list[tuple[Any, ...]]) -> None:
        """Add the rows that the buffer has completely, up to the first packet of another kind."""
        try:
            data = connection._rfile.peek()
        except OSError:
            return  # PyMySQL gets the same error, and reports it
        except BaseException:
            connection._force_close()  # as PyMySQL does: the rest would be read as the next answer
            raise
        number = connection._next_seq_id
        at, last = 0, len(data) - _HEADER
        while at < last and data[at + 3] == number and data[at + _HEADER] < _NOT_A_ROW:
            start = at + _HEADER
            end = start + data[at] + (data[at + 1] << 8) + (data[at + 2] << 16)
            if end > len(data):
                break
            rows.append(self._row(data, start, end))
            at = end
            number = (number + 1) % 256
        connection._rfile.read(at)
        connection._next_seq_id = number

    def _read_row_from_packet(self, packet: Any) -> tuple[Any, ...]:
        data = packet.get_all_data()
        return self._row(data, 0, len(data))

    def _row(self, data: bytes, at: int, end: int) -> tuple[Any, ...]:
        row: list[Any] = []
        for read in self._reads:
            size = data[at]
            at += 1
            if size >= _NULL:
                if size == _NULL:
                    row.append(None)
                    continue
                start, at = at, at + _LENGTHS[size]
                size = int.from_bytes(data[start:at], "little")
            start, at = at, at + size
            row.append(data[start:at] if read is None else read(data[start:at]))
        if at != end:
            raise ValueError(f"a row is {end - at} bytes longer than its values")
        return tuple(row)


def _read_of(encoding: str | None, converter: Callable[[Any], Any] | None) -> _Read | None:
    """Return the conversion of PyMySQL for a column with this encoding and converter, as one call."""
    if encoding is None:
        return converter
    if converter is int:
        return int  # the digits need not become a text first
    if converter is None and encoding in ("utf8", "utf-8"):
        return bytes.decode
    return partial(_converted, encoding=encoding, converter=converter)


def _converted(value: bytes, *, encoding: str, converter: Callable[[str], Any] | None) -> Any:
    text = value.decode(encoding)
    return text if converter is None else converter(text)
