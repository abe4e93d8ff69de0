"""A client's side of a Gearman connection.

A server answers the requests of a connection in their order, and only the order tells which request an answer
belongs to: JOB_CREATED has only a handle. So this module keeps a queue of the requests without an answer. A
refused request leaves the queue too, so it cannot shift the answers of the others. Packets about running jobs
come between answers, and are matched with their jobs by the handle.
"""

from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import (
    HEADER,
    MAX_BODY,
    MAX_UNIQUE,
    REQUEST,
    RESPONSE,
    Decoder,
    Line,
    Type,
    check_function,
    check_unique,
    encode,
)
from garivini.gearman.protocol.events import (
    Answer,
    Created,
    Echoed,
    Event,
    Finished,
    JobStatus,
    Lines,
    OptionSet,
    Refused,
    Unknown,
    Update,
)


class Priority(IntEnum):
    """Gearman's three priorities of a queued job, most urgent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Submission(msgspec.Struct, frozen=True, gc=False):
    """A job to submit. A server merges it with a job of the same function and ``unique`` that it has."""

    function: bytes
    data: bytes
    unique: bytes = b""
    priority: Priority = Priority.NORMAL


#: The packet types of a submit, as numbers, indexed by ``Priority``.
_BACKGROUND: Final = tuple(map(int, (Type.SUBMIT_JOB_HIGH_BG, Type.SUBMIT_JOB_BG, Type.SUBMIT_JOB_LOW_BG)))
_FOREGROUND: Final = tuple(map(int, (Type.SUBMIT_JOB_HIGH, Type.SUBMIT_JOB, Type.SUBMIT_JOB_LOW)))
# This constant is read for each packet: Python finds a name of the module faster than a member of an enum.
_CREATED: Final = Type.JOB_CREATED
#: Identifies a request: any value of the caller, returned with the answer.
Tag = TypeVar("Tag")
#: The answer that a request expects: its packet type, or for an administrative command its form.
_Expected: TypeAlias = Type | Literal["line", "block"]

#: Maximum bytes of a line of a server.
_MAX_LINE: Final = 16 * 1024 * 1024
#: Maximum bytes of a job handle. gearmand does not answer a request with a longer handle.
MAX_HANDLE: Final = 63


class ClientProtocol(Generic[Tag]):
    """A client's side of one connection.

    Each request has a tag and gets exactly one ``Answer`` with this tag, in the order of the requests. After
    ``Created``, a foreground job gets any number of ``Update``, then one ``Finished``.

    Args:
        max_body: maximum bytes of a packet's body.

    """

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        # A line of ``workers`` has the names of all functions of a worker.
        self._decoder = Decoder(RESPONSE, lines=True, max_body=max_body, max_line=_MAX_LINE)
        self._out: list[bytes] = []
        self._pending: deque[tuple[_Expected, Tag, bool]] = deque()
        #: The entry of the last submit in ``_pending``. The submits of a batch have one tag, and share it.
        self._submitted: tuple[_Expected, Tag, bool] | None = None
        #: Lists of tags by handle. A handle usually has one tag, for which a list takes a tenth of the bytes
        #: of a deque.
        self._foreground: dict[bytes, list[Tag]] = {}
        #: The lines of an answer whose end has not arrived.
        self._block: list[bytes] = []
        self._after_block = False

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    def submit(self, tag: Tag, job: Submission, *, foreground: bool = False) -> int:
        """Ask the server to queue a job; return the number of bytes added to the output.

        Raises:
            UsageError: a packet cannot carry the function or the unique. Nothing was added.

        """
        number = (_FOREGROUND if foreground else _BACKGROUND)[job.priority]
        unique, data = job.unique, job.data
        if len(unique) > MAX_UNIQUE or b"\0" in unique:
            check_unique(unique)  # raises
        # This runs once per job, so ``encode`` is not called: the call would take a third of the time.
        fields = b"%b\0%b\0" % (check_function(job.function), unique)
        size = len(fields) + len(data)
        self._out += (HEADER.pack(REQUEST, number, size), fields, data)
        request = self._submitted
        if request is None or request[1] is not tag or request[2] is not foreground:
            request = self._submitted = _CREATED, tag, foreground
        self._pending.append(request)
        return HEADER.size + size

    def echo(self, tag: Tag, data: bytes) -> None:
        """Ask the server to send ``data`` back."""
        self._request(tag, encode(REQUEST, Type.ECHO_REQ, data), Type.ECHO_RES)

    def option(self, tag: Tag, name: bytes) -> None:
        """Switch an option on; ``exceptions`` makes the server forward WORK_EXCEPTION."""
        self._request(tag, encode(REQUEST, Type.OPTION_REQ, name), Type.OPTION_RES)

    def status(self, tag: Tag, handle: bytes) -> None:
        """Ask for the status of the job with this handle.

        Raises:
            UsageError: the handle is too long.

        """
        if len(handle) > MAX_HANDLE:
            raise UsageError(f"a job handle has at most {MAX_HANDLE} bytes, this one {len(handle)}")
        self._request(tag, encode(REQUEST, Type.GET_STATUS, handle), Type.STATUS_RES)

    def status_unique(self, tag: Tag, unique: bytes) -> None:
        """Ask for the status of the job with this unique, of any function.

        Raises:
            UsageError: the unique is too long or has a NUL byte, so no server can have it.

        """
        packet = encode(REQUEST, Type.GET_STATUS_UNIQUE, check_unique(unique))
        self._request(tag, packet, Type.STATUS_RES_UNIQUE)

    def command(self, tag: Tag, text: bytes, *, block: bool) -> None:
        """Send one line of the administrative protocol.

        ``block``: whether the answer is a block of lines with a last line ``.``, or a single line.

        Raises:
            UsageError: the text is not one line.

        """
        if b"\n" in text or b"\r" in text or text[:1] == b"\0":
            raise UsageError(f"administrative command {text!r} is not one line")
        # gearmand cuts two bytes from the end of a line, so a bare newline would cost the last letter.
        self._request(tag, text + b"\r\n", "block" if block else "line")

    def _request(self, tag: Tag, packet: bytes, answer: _Expected, foreground: bool = False) -> None:
        self._out.append(packet)
        self._pending.append((answer, tag, foreground))

    def data_to_send(self) -> bytes:
        """Return the bytes to write to the server, once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> Iterator[tuple[Tag, Event]]:
        """Receive bytes from the server and yield the events in them. Exhaust the iterator.

        Raises:
            ProtocolError: the server violated the protocol after the yielded events. Close the connection
                and call ``lost``.

        """
        pending = self._pending
        for item in self._decoder.feed(data):
            if isinstance(item, Line):
                found = self._line(item.text)
            else:
                kind, fields = item
                if kind is _CREATED and pending and pending[0][0] is _CREATED:
                    _, tag, foreground = pending.popleft()
                    handle = fields[0]
                    if foreground:
                        self._foreground.setdefault(handle, []).append(tag)
                    yield tag, Created(handle)
                    continue
                found = self._report(kind, fields) if kind in _REPORTS else self._answer(kind, fields)
            if found is not None:
                yield found

    def lost(self) -> list[tuple[Tag, Event]]:
        """End every request and foreground job as ``Unknown``, because the connection was lost."""
        tags = [tag for _, tag, _ in self._pending]
        tags += [tag for waiting in self._foreground.values() for tag in waiting]
        self._pending.clear()
        self._foreground.clear()
        self._out.clear()
        return [(tag, Unknown()) for tag in tags]

    def _answer(self, kind: Type, fields: list[bytes]) -> tuple[Tag, Event]:
        if not self._pending:
            raise ProtocolError(f"the server sends {kind.name} without a request")
        expected, tag, _ = self._pending[0]
        if kind is Type.ERROR:
            answer: Answer = Refused(fields[0], fields[1])
        elif kind is expected:
            answer = _ANSWERS[kind](fields)
        else:
            raise ProtocolError(f"the server answers {kind.name} to a request that has another answer")
        self._pending.popleft()
        return tag, answer

    def _report(self, kind: Type, fields: list[bytes]) -> tuple[Tag, Event] | None:
        # gearmand 1.1.20 leaves a NUL behind the handle of a WORK_FAIL that it made of a WORK_EXCEPTION.
        handle = fields[0].rstrip(b"\0")
        waiting = self._foreground.get(handle)
        if waiting is None:
            return None  # no submit of this connection waits for this job
        if kind in _FINAL:
            # Submits that were merged by their unique share a handle: the server sends one end per submit.
            tag = waiting.pop(0)
            if not waiting:
                del self._foreground[handle]
            return tag, Finished(kind, fields[1] if len(fields) > 1 else b"")
        # The server sends a report once per submit too, in the same order.
        tag = waiting.pop(0)
        waiting.append(tag)
        return tag, Update(kind, fields[1:])

    def _line(self, text: bytes) -> tuple[Tag, Event] | None:
        expected, tag, _ = self._pending[0] if self._pending else (None, None, None)
        if expected not in ("line", "block"):
            if self._after_block:
                return None  # gearmand does not escape names, and a name contained the end of a block
            raise ProtocolError(f"the server sends the line {text[:80]!r} without a request for it")
        if text.startswith(b"ERR "):
            code, _, message = text[4:].partition(b" ")
            answer: Answer = Refused(code, message)
        elif expected == "line":
            answer = Lines([text])
        elif text == b".":
            answer, self._block = Lines(self._block), []
            self._after_block = True
        else:
            self._block.append(text)
            return None
        self._pending.popleft()
        return cast(Tag, tag), answer


def _number(field: bytes) -> int:
    if not field.isdigit() or len(field) > 20:
        raise ProtocolError(f"{field[:40]!r} is not a number")
    return int(field)


def _status(fields: list[bytes]) -> JobStatus:
    return JobStatus(fields[1] == b"1", fields[2] == b"1", _number(fields[3]), _number(fields[4]))


_ANSWERS: Final[dict[Type, Callable[[list[bytes]], Answer]]] = {
    Type.ECHO_RES: lambda fields: Echoed(fields[0]),
    Type.OPTION_RES: lambda fields: OptionSet(fields[0]),
    Type.STATUS_RES: _status,
    Type.STATUS_RES_UNIQUE: _status,
}
_FINAL: Final = frozenset({Type.WORK_COMPLETE, Type.WORK_FAIL, Type.WORK_EXCEPTION})
_REPORTS: Final = _FINAL | {Type.WORK_DATA, Type.WORK_WARNING, Type.WORK_STATUS}
