"""Both ends of a Gearman conversation without I/O: commands in, bytes out; bytes in, events out.

A server answers a connection's requests in their order, and an answer names its request by nothing but its
place (JOB_CREATED carries only a handle). So the queue of requests without an answer lives here, and one
refused request cannot shift the answers of the others. Work packets come in between and go by their handle.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Final, Generic, TypeVar, cast

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
    Packet,
    Type,
    check_function,
    check_unique,
    encode,
)


class Priority(IntEnum):
    """Gearman's three priorities of a queued job, the most urgent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Submission(msgspec.Struct, frozen=True, gc=False):
    """A job to submit. ``unique`` merges it with a live job of the same function and unique; empty: never."""

    function: bytes
    data: bytes
    unique: bytes = b""
    priority: Priority = Priority.NORMAL


#: By ``Priority``.
_BACKGROUND: Final = (Type.SUBMIT_JOB_HIGH_BG, Type.SUBMIT_JOB_BG, Type.SUBMIT_JOB_LOW_BG)
_FOREGROUND: Final = (Type.SUBMIT_JOB_HIGH, Type.SUBMIT_JOB, Type.SUBMIT_JOB_LOW)
# Looked at for each packet: a name of the module is found sooner than a member of an enum.
_CREATED: Final = Type.JOB_CREATED


# ---- what a client hears


class Created(msgspec.Struct, frozen=True, gc=False):
    """The server has the job. It does not say whether the job is new or joined a live one."""

    handle: bytes


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The server refused the request, for example with ``QUEUE_ERROR`` where the function's queue is full."""

    code: bytes
    text: bytes


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """The connection was lost between request and answer: done or not."""


class Unsent(msgspec.Struct, frozen=True, gc=False):
    """The connection was lost before the request was written: not done."""


class Echoed(msgspec.Struct, frozen=True, gc=False):
    """The answer to an echo, with its data."""

    data: bytes


class OptionSet(msgspec.Struct, frozen=True, gc=False):
    """The server has switched the named option on for this connection."""

    option: bytes


class JobStatus(msgspec.Struct, frozen=True, gc=False):
    """What the server knows of a job: whether it holds it, whether a worker has it, its progress."""

    known: bool
    running: bool
    numerator: int
    denominator: int


class Lines(msgspec.Struct, frozen=True):
    """The answer to an administrative command: its line, or the lines before the closing ``.``."""

    lines: list[bytes]


class Update(msgspec.Struct, frozen=True):
    """A foreground job reports: WORK_STATUS, WORK_DATA or WORK_WARNING, with the fields after the handle."""

    kind: Type
    fields: list[bytes]


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A foreground job has ended: WORK_COMPLETE, WORK_FAIL (no data) or WORK_EXCEPTION."""

    kind: Type
    data: bytes


Answer = Created | Refused | Unknown | Echoed | OptionSet | JobStatus | Lines
Event = Answer | Update | Finished
#: What names a request: anything the caller likes, given back with the answer.
Tag = TypeVar("Tag")

#: Maximum bytes of a line of a server.
_MAX_LINE: Final = 16 * 1024 * 1024
#: Bytes of a job handle, at most. gearmand gives no answer at all to a longer one.
MAX_HANDLE: Final = 63


class ClientProtocol(Generic[Tag]):
    """A client's side of one connection.

    Each request is made with a tag and gets exactly one ``Answer`` with that tag, in the order of the
    requests. A foreground job that was created gets more: any number of ``Update``, then one ``Finished``.
    """

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        # A line of ``workers`` has the names of all functions of a worker.
        self._decoder = Decoder(RESPONSE, lines=True, max_body=max_body, max_line=_MAX_LINE)
        self._out: list[bytes] = []
        self._pending: deque[tuple[Type | str, Tag, bool]] = deque()
        #: By handle. Mostly there is one, for which a list takes a tenth of the bytes of a deque.
        self._foreground: dict[bytes, list[Tag]] = {}
        self._block: list[bytes] = []
        self._after_block = False

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    def submit(self, tag: Tag, job: Submission, *, foreground: bool = False) -> int:
        """Ask for ``job`` to be queued; return the bytes added to what is to be sent.

        Raises:
            UsageError: function or unique cannot travel; nothing was added.

        """
        kind = (_FOREGROUND if foreground else _BACKGROUND)[job.priority]
        unique = job.unique
        if len(unique) > MAX_UNIQUE or b"\0" in unique:
            check_unique(unique)  # raises
        packet = encode(REQUEST, kind, check_function(job.function), unique, job.data)
        self._out.append(packet)
        self._pending.append((_CREATED, tag, foreground))
        return len(packet)

    def echo(self, tag: Tag, data: bytes) -> None:
        """Ask for ``data`` to be sent back."""
        self._request(tag, encode(REQUEST, Type.ECHO_REQ, data), Type.ECHO_RES)

    def option(self, tag: Tag, name: bytes) -> None:
        """Switch an option on; ``exceptions`` makes the server forward WORK_EXCEPTION."""
        self._request(tag, encode(REQUEST, Type.OPTION_REQ, name), Type.OPTION_RES)

    def status(self, tag: Tag, handle: bytes) -> None:
        """Ask for the status of the job with this handle."""
        if len(handle) > MAX_HANDLE:
            raise UsageError(f"a job handle has at most {MAX_HANDLE} bytes, this one {len(handle)}")
        self._request(tag, encode(REQUEST, Type.GET_STATUS, handle), Type.STATUS_RES)

    def status_unique(self, tag: Tag, unique: bytes) -> None:
        """Ask for the status of the job with this unique, of whatever function."""
        packet = encode(REQUEST, Type.GET_STATUS_UNIQUE, check_unique(unique))
        self._request(tag, packet, Type.STATUS_RES_UNIQUE)

    def command(self, tag: Tag, text: bytes, *, block: bool) -> None:
        """Send one line of the administrative protocol.

        ``block``: whether the answer is lines closed by ``.``, or a single line.
        """
        if b"\n" in text or b"\r" in text or text[:1] == b"\0":
            raise UsageError(f"administrative command {text!r} is not one line")
        # gearmand cuts two bytes from the end of a line, so a bare newline would cost the last letter.
        self._request(tag, text + b"\r\n", "block" if block else "line")

    def _request(self, tag: Tag, packet: bytes, answer: Type | str, foreground: bool = False) -> None:
        self._out.append(packet)
        self._pending.append((answer, tag, foreground))

    def data_to_send(self) -> bytes:
        """Return what is to be written to the server, once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> Iterator[tuple[Tag, Event]]:
        """Take bytes from the server and yield what they say. Exhaust the iterator.

        Raises:
            ProtocolError: the server sent nonsense, after what has been yielded. Close the connection and
                take the rest from ``lost``.

        """
        for item in self._decoder.feed(data):
            if isinstance(item, Line):
                found = self._line(item.text)
            else:
                kind, fields = item
                if kind is _CREATED and self._pending and self._pending[0][0] is _CREATED:
                    found = self._created(fields[0])
                else:
                    found = self._report(kind, fields) if kind in _REPORTS else self._answer(kind, fields)
            if found is not None:
                yield found

    def lost(self) -> list[tuple[Tag, Event]]:
        """Say that the connection is gone. Every request and foreground job ends as ``Unknown``."""
        tags = [tag for _, tag, _ in self._pending]
        tags += [tag for waiting in self._foreground.values() for tag in waiting]
        self._pending.clear()
        self._foreground.clear()
        self._out.clear()
        return [(tag, Unknown()) for tag in tags]

    def _created(self, handle: bytes) -> tuple[Tag, Event]:
        _, tag, foreground = self._pending.popleft()
        if foreground:
            self._foreground.setdefault(handle, []).append(tag)
        return tag, Created(handle)

    def _answer(self, kind: Type, fields: list[bytes]) -> tuple[Tag, Event]:
        if not self._pending:
            raise ProtocolError(f"the server sends {kind.name}, which answers nothing")
        expected, tag, _ = self._pending[0]
        if kind is Type.ERROR:
            answer: Answer = Refused(fields[0], fields[1])
        elif kind is expected:
            answer = _ANSWERS[kind](fields)
        else:
            raise ProtocolError(f"the server answers {kind.name} where {expected} is due")
        self._pending.popleft()
        return tag, answer

    def _report(self, kind: Type, fields: list[bytes]) -> tuple[Tag, Event] | None:
        # gearmand 1.1.20 leaves a NUL behind the handle of a WORK_FAIL that it made of a WORK_EXCEPTION.
        handle = fields[0].rstrip(b"\0")
        waiting = self._foreground.get(handle)
        if waiting is None:
            return None  # nobody waits for it here any more
        if kind in _FINAL:
            # Submits that were merged by their unique share a handle; the server sends the end to each.
            tag = waiting.pop(0)
            if not waiting:
                del self._foreground[handle]
            return tag, Finished(kind, fields[1] if len(fields) > 1 else b"")
        # The server sends a report once for each of them too, and in the same order.
        tag = waiting.pop(0)
        waiting.append(tag)
        return tag, Update(kind, fields[1:])

    def _line(self, text: bytes) -> tuple[Tag, Event] | None:
        expected, tag, _ = self._pending[0] if self._pending else (None, None, None)
        if expected not in ("line", "block"):
            if self._after_block:
                return None  # gearmand shows names raw, and one had a line that ends a block
            raise ProtocolError(f"the server sends the line {text[:80]!r} where {expected} is due")
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
        raise ProtocolError(f"{field[:40]!r} where a number is due")
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


# ---- what a worker hears


class Assigned(msgspec.Struct, frozen=True, gc=False):
    """A job for this worker. ``unique`` is empty where the submitter gave none."""

    handle: bytes
    function: bytes
    unique: bytes
    data: bytes


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The server did not take a packet, mostly the end of a job it no longer knows (``JOB_NOT_FOUND``)."""

    code: bytes
    text: bytes


_GRAB: Final = encode(REQUEST, Type.GRAB_JOB_UNIQ)
# As ``_CREATED``.
_ASSIGN: Final = Type.JOB_ASSIGN_UNIQ
_NO_JOB: Final = Type.NO_JOB
_COMPLETE_NUMBER: Final = int(Type.WORK_COMPLETE)
#: Grabs beyond what is expected: enough to see whether there is more, and few answers where there is not.
_MORE: Final = 16
#: Grabs without an answer, at most: they keep a server busy, and where it has nothing each costs an answer.
_WIDE: Final = 512


class WorkerProtocol:
    """A worker's side of one connection, which may hold several jobs at once.

    It asks for as many jobs as there are free slots, sleeps when the server has none, and asks again when
    it is woken: for one job, then for more as they come. Each grab gets exactly one answer, so grabs are
    counted and never matched.

    Args:
        functions: names to register.
        slots: jobs to hold at once: assigned and not finished. May be changed at any time; 0 stops asking.
        client_id: shown by the server's ``workers``; at most 127 bytes without white space.
        eager: whether a wake-up asks at once for as many as came since the last one. For those that run
            nothing themselves: of others one would take what the rest could begin.
        max_body: bytes of a payload, at most.

    """

    def __init__(
        self,
        functions: Iterable[bytes],
        *,
        slots: int = 1,
        client_id: bytes = b"",
        eager: bool = False,
        max_body: int = MAX_BODY,
    ) -> None:
        self._decoder = Decoder(RESPONSE, max_body=max_body)
        self._out: list[bytes] = []
        self._asked = 0  # grabs without an answer, and how many there may be
        self._window = _WIDE
        self._eager = eager
        self._came = 0  # jobs since it was woken, and how many had come between the two wake-ups before
        self._expected = 0
        self._held: set[bytes] = set()
        self._asleep = False
        self._dry = False  # the server had nothing at the last answer
        self._echoes = 0
        self.slots = slots
        if client_id:
            self._send(Type.SET_CLIENT_ID, client_id[:127])
        # Once per connection: a second CAN_DO counts as a second worker in gearmand.
        for name in dict.fromkeys(functions):
            self._send(Type.CAN_DO, check_function(name))
        self.ask()

    @property
    def held(self) -> int:
        """Jobs assigned and not finished."""
        return len(self._held)

    @property
    def quiet(self) -> bool:
        """Whether no job is held and none can still be on its way."""
        return not self._held and not self._asked

    @property
    def waiting(self) -> int:
        """Answers that are due: to grabs and echoes."""
        return self._asked + self._echoes

    def ask(self, *, again: bool = False) -> None:
        """Ask for jobs for the free slots.

        ``again``: ask even when asleep, as a guard against a wake-up that never came.
        """
        if again and self.slots > len(self._held):
            self._rouse()
        if self._asleep or self._dry:
            return
        more = min(self._window, self.slots - len(self._held)) - self._asked
        if more > 0:
            self._out.append(_GRAB * more)
            self._asked += more

    def _rouse(self) -> None:
        self._asleep = self._dry = False
        # Mostly one job wakes it: for each other free slot the server would only say that it has none.
        self._window = self._expected = min(max(1, self._came), _WIDE) if self._eager else 1
        self._came = 0

    def complete(self, handle: bytes, data: bytes = b"") -> None:
        """End a job with success."""
        # Once per job: the calls of ``_let_go`` and ``encode`` would take a third of the time.
        try:
            self._held.remove(handle)
        except KeyError:
            raise UsageError(f"job {handle!r} is not held on this connection") from None
        header = HEADER.pack(REQUEST, _COMPLETE_NUMBER, len(handle) + 1 + len(data))
        self._out.append(b"%b%b\0%b" % (header, handle, data))

    def fail(self, handle: bytes) -> None:
        """End a job with failure."""
        self._let_go(handle)
        self._send(Type.WORK_FAIL, handle)

    def exception(self, handle: bytes, data: bytes) -> None:
        """End a job with an error's text. No other packet may follow for it."""
        self._let_go(handle)
        self._send(Type.WORK_EXCEPTION, handle, data)

    def report(self, handle: bytes, kind: Type, *fields: bytes) -> None:
        """Send WORK_STATUS, WORK_DATA or WORK_WARNING with the fields after the handle."""
        if handle not in self._held:
            raise UsageError(f"job {handle!r} is not held on this connection")
        self._send(kind, handle, *fields)

    def _let_go(self, handle: bytes) -> None:
        try:
            self._held.remove(handle)
        except KeyError:
            raise UsageError(f"job {handle!r} is not held on this connection") from None

    def echo(self, data: bytes = b"") -> None:
        """Ask for ``data`` to be sent back: a sign of life."""
        self._send(Type.ECHO_REQ, data)
        self._echoes += 1

    def _send(self, kind: Type, *fields: bytes) -> None:
        self._out.append(encode(REQUEST, kind, *fields))

    def data_to_send(self) -> bytes:
        """Return what is to be written to the server, once: at its end, grabs for the slots that are free."""
        self.ask()
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> list[Assigned | Rejected]:
        """Take bytes from the server; return the jobs assigned and what it rejected.

        Raises:
            ProtocolError: the server sent nonsense. Close the connection; it will requeue what was held.

        """
        events: list[Assigned | Rejected] = []
        held = self._held
        for packet in self._decoder.feed(data):
            assert isinstance(packet, Packet)  # a decoder without lines
            kind, fields = packet
            if kind is _ASSIGN:
                self._answered(kind)
                handle = fields[0]
                # A server that answers one grab with several jobs would be fine; two with one handle not.
                if handle in held:
                    raise ProtocolError(f"the server assigns {handle!r} twice")
                held.add(handle)
                self._came += 1
                if self._came <= self._expected - _MORE:
                    self._window -= 1  # one less is still to come
                elif self._window < _WIDE:
                    self._window += 1  # so twice as many are asked for with each round trip
                self._dry = False  # an earlier grab may have found nothing, but a job has come since
                events.append(Assigned(*fields))
            elif kind is _NO_JOB:
                self._answered(kind)
                self._dry = True
                if not self._asked:
                    self._asleep = True
                    self._send(Type.PRE_SLEEP)
            elif kind is Type.NOOP:
                # A hint that may come at any time. While a grab is out its answer says more.
                if not self._asked:
                    self._rouse()
            elif kind is Type.ECHO_RES and self._echoes:
                self._echoes -= 1
            elif kind is Type.ERROR:
                events.append(Rejected(fields[0], fields[1]))
            else:
                raise ProtocolError(f"the server sends {kind.name} to a worker")
        self.ask()
        return events

    def _answered(self, kind: Type) -> None:
        if not self._asked:
            raise ProtocolError(f"the server answers {kind.name} to no grab")
        self._asked -= 1
