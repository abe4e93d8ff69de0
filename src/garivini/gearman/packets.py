r"""The packets of the Gearman protocol: their table, an encoder, and an incremental decoder.

A packet has a header of twelve bytes (magic ``\0REQ`` or ``\0RES``, type, length of the body; big-endian)
and a body: its fields, separated by NUL bytes. Source: the file PROTOCOL of
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

#: Maximum bytes of a packet's body. gearmand has no limit and allocates as many bytes as a header announces.
MAX_BODY: Final = 64 * 1024 * 1024
#: Maximum bytes of a line of the administrative protocol.
MAX_LINE: Final = 8192
#: Maximum bytes of a unique. gearmand cuts one of 64 bytes to 63 and corrupts the payload.
MAX_UNIQUE: Final = 63
#: Maximum bytes of a function's name. gearmand closes the connection if its buffer of 8 KiB is too small for
#: the name, the header and the unique.
MAX_FUNCTION: Final = 8000

HEADER = struct.Struct(">4sII")
#: The header as the decoder reads it: magic and type together, then the length.
_LENGTH = struct.Struct(">8sI")
#: Bytes that a function's name may not contain.
_UNFIT = re.compile(rb"[\x00\r\n]")


class Type(IntEnum):
    """The packet types: name, number, and the names of the fields in their order.

    Every field but the last ends with a NUL byte. The last is the rest of the body and may have NUL bytes.
    """

    fields: tuple[str, ...]

    # The hash of an enum member is by default that of its name: a call in Python per dictionary lookup.
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


#: For each magic: the type of a packet and its number of fields, by the packet's first eight bytes.
_KINDS: Final[dict[bytes, dict[bytes, tuple[Type, int]]]] = {
    magic: {magic + kind.to_bytes(4, "big"): (kind, len(kind.fields)) for kind in Type}
    for magic in (REQUEST, RESPONSE)
}


class Packet(NamedTuple):
    """One decoded packet: its type, and its fields as named in ``Type.fields``."""

    type: Type
    fields: list[bytes]


class Line(NamedTuple):
    """One decoded line of the administrative protocol, without its line break."""

    text: bytes


def encode(magic: bytes, kind: Type, *fields: bytes) -> bytes:
    """Return the bytes of one packet.

    Args:
        magic: ``REQUEST`` or ``RESPONSE``.
        kind: the type of the packet.
        fields: the values of ``kind.fields``. All but the last must be free of NUL bytes. Callers check
            values from outside with ``check_function`` and ``check_unique``.

    """
    body = b"\0".join(fields)
    # Packing a plain int takes half the time of packing an enum member.
    return HEADER.pack(magic, kind._value_, len(body)) + body


@lru_cache(1024)
def check_function(name: bytes) -> bytes:
    """Return a name if a function in Gearman can have it.

    A line break would forge lines of gearmand's administrative protocol, for every reader of its status. A
    NUL byte would shift the fields of a packet.

    Raises:
        UsageError: it is empty, too long, or has a line break or a NUL byte.

    """
    if not 0 < len(name) <= MAX_FUNCTION:
        raise UsageError(f"a function name has 1 to {MAX_FUNCTION} bytes, this one has {len(name)}")
    if _UNFIT.search(name):
        raise UsageError(f"function name {name!r} has a line break or a NUL byte: remove it")
    return name


def check_unique(unique: bytes) -> bytes:
    """Return a unique if a server keeps it unchanged; an empty one means no unique.

    Raises:
        UsageError: it is longer than 63 bytes or has a NUL byte.

    """
    if len(unique) > MAX_UNIQUE:
        raise UsageError(f"a Gearman unique has at most {MAX_UNIQUE} bytes, this one {len(unique)}: hash it")
    if b"\0" in unique:
        raise UsageError(f"Gearman unique {unique!r} has a NUL byte: remove it")
    return unique


class Decoder:
    """Decodes packets and lines from bytes that arrive in any pieces.

    Args:
        magic: the beginning of each packet: ``REQUEST`` on a server, ``RESPONSE`` on a client.
        lines: whether lines of the administrative protocol may come between packets.
        max_body: maximum bytes of a body. A longer one is refused when its header is read, before memory is
            allocated for it.
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
        self._wanted = 0  # length of the buffer at which the next packet is complete

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their packet, or for the caller to continue the iteration."""
        return len(self._buffer) + self._feeding

    def feed(self, data: bytes) -> Iterator[Packet | Line]:
        """Decode data and yield complete packets and lines. Exhaust the iterator before the next call.

        Raises:
            ProtocolError: a packet has the wrong magic, an unknown type or too few fields, or a packet or
                line is too long. All earlier packets and lines have been yielded. The rest of the stream
                cannot be decoded.

        """
        if self._buffer and not (data := self._join(data)):
            return
        end = self._feeding = len(data)
        offset = self._wanted = 0
        lines, kinds, make = self._lines, self._kinds, tuple.__new__
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
                    # The first four bytes show whether the peer uses the protocol of Gearman.
                    self._check_magic(data[offset : offset + 4])
                    break
                beginning, length = _LENGTH.unpack_from(data, offset)
                found = kinds.get(beginning)
                if found is None:
                    raise self._not_a_packet(beginning)
                if length > self._max_body:
                    raise ProtocolError(f"a body of {length} bytes; the limit here is {self._max_body} bytes")
                start = offset + 12
                if end - start < length:
                    # Wait for the whole packet: a large body is then copied once, not once per piece.
                    self._wanted = 12 + length
                    break
                offset = start + length
                kind, arity = found
                fields = data[start:offset].split(b"\0", arity - 1) if arity else []
                if len(fields) != arity:
                    fields = _fewer(kind, fields)
                yield make(Packet, (kind, fields))  # half the time of Packet(kind, fields)
        finally:
            self._feeding = 0
            self._buffer += data[offset:]

    def _join(self, data: bytes) -> bytes:
        """Return the buffer with data at its end, or nothing if the next packet is still incomplete."""
        self._buffer += data
        if len(self._buffer) < self._wanted:
            return b""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _check_magic(self, magic: bytes) -> None:
        if not self._magic.startswith(magic):
            raise ProtocolError(f"not a Gearman packet: it begins with {magic!r}, not with {self._magic!r}")

    def _not_a_packet(self, beginning: bytes) -> ProtocolError:
        """Return the error for a header that no packet begins with."""
        self._check_magic(beginning[:4])
        return ProtocolError(f"unknown packet type {int.from_bytes(beginning[4:], 'big')}")


def _end_of_line(data: bytes, offset: int, longest: int) -> int:
    """Return the end of the line that begins at an offset; -1: its end has not arrived."""
    stop = data.find(b"\n", offset, offset + longest)
    if stop < 0 and len(data) - offset >= longest:
        raise ProtocolError(f"a line of over {longest} bytes")
    return stop


def _fewer(kind: Type, fields: list[bytes]) -> list[bytes]:
    """Return the fields of a packet with too few of them, if the missing field is known to be empty."""
    if kind is Type.WORK_COMPLETE:
        # Perl's Gearman::Worker sends this packet without the last field if the result is empty.
        return [*fields, b""]
    raise ProtocolError(f"{kind.name} with {len(fields)} fields instead of {len(kind.fields)}")
