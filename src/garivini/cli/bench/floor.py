"""The baselines: bare blocking loops of the same steps, with the same tables and durability.

They have no features: no renewals, no retries, no fences, no watermark, no handling of a lost connection. So
they show the minimum cost of the steps.
"""

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from garivini.cli.bench.bare import BATCH, Bare, Row
from garivini.cli.bench.runs import FLOOR
from garivini.gearman.servers import parse_address

_T = TypeVar("_T")

#: Number of grabs that a worker keeps pending.
GRABS: Final = 256

#: The backlog that a producer maintains. A producer that never waited would block the others on a database
#: with a single writer.
STANDING: Final = 10_000

_HEADER: Final = struct.Struct(">4sII")
_PRE_SLEEP, _NOOP, JOB_CREATED, _NO_JOB, _JOB_ASSIGN = 4, 6, 8, 10, 11
_CAN_DO, SUBMIT_JOB, _GRAB_JOB, WORK_COMPLETE, SUBMIT_JOB_BG = 1, 7, 9, 13, 18


def packet(kind: int, body: bytes = b"") -> bytes:
    """Return a request."""
    return _HEADER.pack(b"\0REQ", kind, len(body)) + body


_GRAB, _SLEEP = packet(_GRAB_JOB), packet(_PRE_SLEEP)


class Connection:
    """A blocking socket that sends requests and reads packets."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection(parse_address(address))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.send: Final = self._socket.sendall
        self.fileno: Final = self._socket.fileno
        self.close: Final = self._socket.close

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Read once and yield the type and body of complete packets. Exit if the connection was closed."""
        data = self._socket.recv(256 * 1024)
        if not data:
            raise SystemExit(0)
        buffer = self._buffer + data
        start, end = 0, len(buffer)
        while end - start >= 12:
            _, kind, length = _HEADER.unpack_from(buffer, start)
            if end - start - 12 < length:
                break
            body = buffer[start + 12 : start + 12 + length]
            start += 12 + length
            yield kind, body
        self._buffer = buffer[start:]


class Submitter:
    """Submits background jobs: all in one write, then it waits for every answer."""

    def __init__(self, address: str) -> None:
        self._connection = Connection(address)
        self._encoder = msgspec.json.Encoder()
        self.close: Final = self._connection.close

    def submit(self, rows: Sequence[Row]) -> None:
        """Submit claimed rows, each in the original's envelope."""
        packets = []
        for jobid, funcname, arg, uniqkey, coalesce, run_after, flag, failcount in rows:
            payload = self._encoder.encode(
                {
                    "jobid": jobid,
                    "dbid": 1,
                    "funcname": funcname,
                    "arg": arg.decode("latin-1"),
                    "uniqkey": uniqkey,
                    "coalesce": coalesce,
                    "run_after": run_after,
                    "flag": flag,
                    "failcount": failcount,
                }
            )
            packets.append(packet(SUBMIT_JOB_BG, b"%s\0001:%d\0%s" % (FLOOR.encode(), jobid, payload)))
        self._connection.send(b"".join(packets))
        answers = 0
        while answers < len(rows):
            for kind, body in self._connection.read():
                if kind != JOB_CREATED:
                    raise SystemExit(f"the server answers {body!r} to a submit")
                answers += 1


def dispatch(store: Bare, submitter: Submitter, stopped: Callable[[float], bool]) -> None:
    """Claim and submit until ``stopped`` returns true. A call of ``stopped`` waits for the given seconds."""
    wait = 0.0
    while not stopped(wait):
        rows = store.claim()
        if rows:
            submitter.submit(rows)
        wait = 0.0 if rows else 0.001


def produce(store: Bare, insert: Callable[[], _T], stopped: Callable[[float], bool]) -> list[_T]:
    """Insert a batch whenever the backlog has less than ``STANDING`` jobs, until ``stopped`` returns true.

    Return the results of the inserts.
    """
    found = []
    wait = 0.0
    while not stopped(wait):
        wait = 0.001 if store.holds(STANDING) else 0.0
        if not wait:
            found.append(insert())
    return found


class Grabber:
    """A worker's connection that keeps grabs pending."""

    def __init__(self, address: str, function: str, grabs: int = GRABS) -> None:
        self.connection: Connection = Connection(address)
        self._grabs = grabs
        self.connection.send(packet(_CAN_DO, function.encode()) + _GRAB)
        self._asked, self._dry = 1, False
        #: Jobs that have been assigned and not ended.
        self.held: int = 0
        self._out: list[bytes] = []

    @property
    def waits(self) -> bool:
        """Whether the server has no more jobs."""
        return not self._asked

    def read(self) -> list[tuple[bytes, bytes]]:
        """Read once; return the handles and payloads of the assigned jobs."""
        found = []
        for kind, body in self.connection.read():
            if kind == _JOB_ASSIGN:
                handle, _, payload = body.split(b"\0", 2)
                found.append((handle, payload))
                self._asked, self._dry = self._asked - 1, False
            elif kind == _NO_JOB:
                self._asked, self._dry = self._asked - 1, True
            elif kind == _NOOP and not self._asked:
                self._out.append(_GRAB)
                self._asked, self._dry = 1, True  # one grab; if there is a job, the window opens
        self.held += len(found)
        return found

    def complete(self, handle: bytes, data: bytes = b"") -> None:
        """Report with the next ``send`` that a job has ended."""
        self._out.append(packet(WORK_COMPLETE, handle + b"\0" + data))
        self.held -= 1

    def send(self) -> None:
        """Send the pending reports, and grabs for free slots."""
        if not self._dry:
            free = max(0, self._grabs - self._asked - self.held)
            self._out += [_GRAB] * free
            self._asked += free
        elif not self._asked:
            self._out.append(_SLEEP)
        self.connection.send(b"".join(self._out))
        self._out.clear()


def work(store: Bare, address: str, ran: Callable[[int], None]) -> None:
    """Grab jobs, and delete their rows in batches or when there are no more jobs. It never returns.

    ``ran`` is the handler: it is called with the id of each job.
    """
    decode = msgspec.json.Decoder().decode
    grabber = Grabber(address, FLOOR)
    done: list[int] = []
    while True:
        for handle, payload in grabber.read():
            jobid = decode(payload)["jobid"]
            ran(jobid)
            done.append(jobid)
            grabber.complete(handle)
        grabber.send()
        if len(done) >= BATCH or (done and grabber.waits):
            store.delete(done)
            done.clear()
