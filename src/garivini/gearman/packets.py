r"""The packets of the Gearman protocol: one table, an encoder, an incremental decoder.

A packet is a header of twelve bytes (magic ``\0REQ`` or ``\0RES``, type, length of the body; big-endian)
and a body: its fields joined by NUL bytes, the last one without an end mark. Source: the file PROTOCOL of
gearmand, sections "Binary Packet" and "Administrative Protocol".
"""

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from garivini.errors import ProtocolError, UsageError

REQUEST: Final = b"\0REQ"
RESPONSE: Final = b"\0RES"

#: Bytes of one packet's body, at most. gearmand itself has no limit and allocates what a header asks for.
MAX_BODY: Final = 64 * 1024 * 1024
#: Bytes of one line of the administrative protocol, at most.
MAX_LINE: Final = 8192
#: gearmand cuts a unique of 64 bytes to 63 and corrupts the payload, so the last good length is this.
MAX_UNIQUE: Final = 63
#: gearmand closes the connection if a name does not fit its buffer of 8 KiB with header and unique.
MAX_FUNCTION: Final = 8000

HEADER = struct.Struct(">4sII")
#: The same, for a reader: magic and type in one, then the length.
_LENGTH = struct.Struct(">8sI")
#: Ends of lines.
_UNFIT = re.compile(rb"[\x00\r\n]")


class Type(IntEnum):
    """The packet types: number, name, and the names of the fields in the order of the wire.

    Every field but the last ends with a NUL byte; the last takes the rest of the body, NUL bytes included.
    """

    fields: tuple[str, ...]

    # An enum's own hash is that of its name, by a call in Python for each look into a dictionary.
    __hash__ = int.__hash__

    def __new__(cls, number: int, *fields: str) -> "Type":  # noqa: D102
        member = int.__new__(cls, number)
        member._value_ = number
        member.fields = fields
        return member

    CAN_DO = 1, "function"
    CANT_DO = 2, "function"
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7, "function", "unique", "data"
    JOB_CREATED = 8, "handle"
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11, "handle", "function", "data"
    WORK_STATUS = 12, "handle", "numerator", "denominator"
    WORK_COMPLETE = 13, "handle", "data"
    WORK_FAIL = 14, "handle"
    GET_STATUS = 15, "handle"
    ECHO_REQ = 16, "data"
    ECHO_RES = 17, "data"
    SUBMIT_JOB_BG = 18, "function", "unique", "data"
    ERROR = 19, "code", "text"
    STATUS_RES = 20, "handle", "known", "running", "numerator", "denominator"
    SUBMIT_JOB_HIGH = 21, "function", "unique", "data"
    SET_CLIENT_ID = 22, "client_id"
    CAN_DO_TIMEOUT = 23, "function", "timeout"
    ALL_YOURS = 24
    WORK_EXCEPTION = 25, "handle", "data"
    OPTION_REQ = 26, "option"
    OPTION_RES = 27, "option"
    WORK_DATA = 28, "handle", "data"
    WORK_WARNING = 29, "handle", "data"
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31, "handle", "function", "unique", "data"
    SUBMIT_JOB_HIGH_BG = 32, "function", "unique", "data"
    SUBMIT_JOB_LOW = 33, "function", "unique", "data"
    SUBMIT_JOB_LOW_BG = 34, "function", "unique", "data"
    SUBMIT_JOB_SCHED = 35, "function", "unique", "minute", "hour", "day", "month", "weekday", "data"
    SUBMIT_JOB_EPOCH = 36, "function", "unique", "epoch", "data"
    SUBMIT_REDUCE_JOB = 37, "function", "unique", "reducer", "data"
    SUBMIT_REDUCE_JOB_BACKGROUND = 38, "function", "unique", "reducer", "data"
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40, "handle", "function", "unique", "reducer", "data"
    GET_STATUS_UNIQUE = 41, "unique"
    STATUS_RES_UNIQUE = 42, "unique", "known", "running", "numerator", "denominator", "clients"


#: The types by the eight bytes that such a packet begins with, and how many fields it has; by magic.
_KINDS: Final[dict[bytes, dict[bytes, tuple[Type, int]]]] = {
    magic: {magic + kind.to_bytes(4, "big"): (kind, len(kind.fields)) for kind in Type}
    for magic in (REQUEST, RESPONSE)
}


class Packet(NamedTuple):
    """One decoded packet: its type, and its fields as named in ``Type.fields``."""

    type: Type
    fields: list[bytes]


class Line(NamedTuple):
    """One decoded line of the administrative protocol, without its end."""

    text: bytes


def encode(magic: bytes, kind: Type, *fields: bytes) -> bytes:
    """Return the bytes of one packet.

    Args:
        magic: ``REQUEST`` or ``RESPONSE``.
        kind: type of the packet.
        fields: the values of ``kind.fields``. All but the last must be free of NUL bytes; the callers check
            what came from outside with ``check_function`` and ``check_unique``.

    """
    body = b"\0".join(fields)
    # Its value as a plain number is packed in half the time.
    return HEADER.pack(magic, kind._value_, len(body)) + body


@lru_cache(1024)
def check_function(name: bytes) -> bytes:
    """Return ``name`` if it can be a function's name on the wire.

    A line break would forge lines of gearmand's administrative protocol, for every reader of its status; a
    NUL would shift the fields of a packet.

    Raises:
        UsageError: it is empty, too long or has such a byte.

    """
    if not 0 < len(name) <= MAX_FUNCTION:
        raise UsageError(f"a function name has 1 to {MAX_FUNCTION} bytes, this one has {len(name)}")
    if _UNFIT.search(name):
        raise UsageError(f"function name {name!r} has a line break or a NUL byte: leave it out")
    return name


def check_unique(unique: bytes) -> bytes:
    """Return ``unique`` if a server keeps it whole; empty means "none".

    Raises:
        UsageError: it is longer than 63 bytes or has a NUL byte.

    """
    if len(unique) > MAX_UNIQUE:
        raise UsageError(f"a Gearman unique has at most {MAX_UNIQUE} bytes, this one {len(unique)}: hash it")
    if b"\0" in unique:
        raise UsageError(f"Gearman unique {unique!r} has a NUL byte: leave it out")
    return unique


class Decoder:
    """Turns bytes, however cut, into packets and lines.

    Args:
        magic: what a binary packet must begin with here: ``REQUEST`` on a server, ``RESPONSE`` on a client.
        lines: whether lines of the administrative protocol may come between packets.
        max_body: bytes of a body, at most. A longer one is refused when its header is read, before anything
            is allocated for it.
        max_line: maximum bytes of a line.

    """

    def __init__(
        self, magic: bytes, *, lines: bool = False, max_body: int = MAX_BODY, max_line: int = MAX_LINE
    ) -> None:
        self._magic = magic
        self._kinds = _KINDS[magic]
        self._lines = lines
        self._max_body = max_body
        self._max_line = max_line
        self._feeding = 0  # bytes that are being decoded
        self._buffer = bytearray()
        self._wanted = 0  # length of the buffer before which looking at it again is of no use

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their packet, or for the caller to go on."""
        return len(self._buffer) + self._feeding

    def feed(self, data: bytes) -> Iterator[Packet | Line]:
        """Take ``data`` and yield what is now complete. Exhaust the iterator before feeding again.

        Raises:
            ProtocolError: wrong magic, unknown type, too few fields, or longer than allowed. What came
                before it has been yielded. The stream has no meaning from there on.

        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        end = self._feeding = len(data)
        offset = self._wanted = 0
        lines, kinds = self._lines, self._kinds
        try:
            while offset < end:
                if lines and data[offset] != 0:
                    stop = _end_of_line(data, offset, self._max_line)
                    if stop < 0:
                        break
                    text = data[offset:stop]
                    offset = stop + 1
                    yield Line(text.removesuffix(b"\r"))
                    continue
                if end - offset < 12:
                    # Four bytes are enough to see that the peer does not speak Gearman.
                    self._check_magic(data[offset : offset + 4])
                    break
                beginning, length = _LENGTH.unpack_from(data, offset)
                found = kinds.get(beginning)
                if found is None:
                    self._check_magic(beginning[:4])
                    raise ProtocolError(f"unknown packet type {int.from_bytes(beginning[4:], 'big')}")
                if length > self._max_body:
                    raise ProtocolError(f"a body of {length} bytes; the limit here is {self._max_body} bytes")
                start = offset + 12
                if end - start < length:
                    # So that a large body is copied once, and not again for each piece of it.
                    self._wanted = 12 + length
                    break
                offset = start + length
                kind, arity = found
                fields = data[start:offset].split(b"\0", arity - 1) if arity else []
                if len(fields) != arity:
                    fields = _fewer(kind, fields)
                yield tuple.__new__(Packet, (kind, fields))  # in half the time that its class takes
        finally:
            self._feeding = 0
            self._buffer += data[offset:]

    def _check_magic(self, magic: bytes) -> None:
        if not self._magic.startswith(magic):
            raise ProtocolError(f"not a Gearman packet: it begins with {magic!r}, not with {self._magic!r}")


def _end_of_line(data: bytes, offset: int, longest: int) -> int:
    """Return where the line ends that begins there; -1: what has come of it has no end."""
    stop = data.find(b"\n", offset, offset + longest)
    if stop < 0 and len(data) - offset >= longest:
        raise ProtocolError(f"a line of over {longest} bytes")
    return stop


def _fewer(kind: Type, fields: list[bytes]) -> list[bytes]:
    """Return the fields of a packet that came with too few."""
    if kind is Type.WORK_COMPLETE:
        # Perl's Gearman::Worker sends it without the last field where the result is empty.
        return [*fields, b""]
    raise ProtocolError(f"{kind.name} with {len(fields)} fields instead of {len(kind.fields)}")
