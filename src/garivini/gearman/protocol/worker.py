"""A worker's side of a Gearman connection."""

from collections.abc import Iterable
from typing import Final

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import (
    HEADER,
    MAX_BODY,
    REQUEST,
    RESPONSE,
    Decoder,
    Packet,
    Type,
    check_function,
    encode,
)
from garivini.gearman.protocol.events import Assigned, Rejected
from garivini.gearman.protocol.window import GrabWindow

_GRAB: Final = encode(REQUEST, Type.GRAB_JOB_UNIQ)
# These constants are read for each packet: Python finds a name of the module faster than a member of an enum.
_ASSIGN: Final = Type.JOB_ASSIGN_UNIQ
_NO_JOB: Final = Type.NO_JOB
_COMPLETE_NUMBER: Final = int(Type.WORK_COMPLETE)


class WorkerProtocol:
    """A worker's side of one connection, which may hold several jobs at once.

    It grabs as many jobs as it has free slots, within the grab window. If the server has none, it sleeps
    until the server wakes it. Each grab gets exactly one answer, so grabs are counted and not matched.

    Args:
        functions: names to register.
        slots: maximum jobs to hold: assigned and not finished. May be changed at any time; 0 stops grabbing.
        client_id: shown by the server's ``workers``; at most 127 bytes without white space.
        eager: whether a wake-up grabs as many jobs as arrived since the last wake-up. This is for a worker
            that only passes jobs on: a worker that runs them would hold jobs that another one could start.
        max_body: maximum bytes of a payload.

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
        self._grabs = 0  # grabs that the server has not answered yet
        self._window = GrabWindow(eager=eager)
        self._held: set[bytes] = set()
        self._asleep = False
        self._dry = False  # whether the last answer to a grab was "no job"
        self._echoes = 0  # echoes that the server has not answered yet
        self.slots: int = slots
        if client_id:
            self._send(Type.SET_CLIENT_ID, client_id[:127])
        # Each name is sent once per connection, because gearmand counts a second CAN_DO as a second worker.
        for name in dict.fromkeys(functions):
            self._send(Type.CAN_DO, check_function(name))
        self.ask()

    @property
    def held(self) -> int:
        """Jobs assigned and not finished."""
        return len(self._held)

    @property
    def quiet(self) -> bool:
        """Whether no job is held and none can arrive."""
        return not self._held and not self._grabs

    @property
    def waiting(self) -> int:
        """Grabs and echoes without an answer."""
        return self._grabs + self._echoes

    def ask(self, *, again: bool = False) -> None:
        """Grab jobs for the free slots.

        ``again``: also while asleep, in case a wake-up was lost.
        """
        if again and self.slots > len(self._held):
            self._wake()
        if self._asleep or self._dry:
            return
        more = min(self._window.size, self.slots - len(self._held)) - self._grabs
        if more > 0:
            self._out.append(_GRAB * more)
            self._grabs += more

    def _wake(self) -> None:
        self._asleep = self._dry = False
        self._window.woken()

    def complete(self, handle: bytes, data: bytes = b"") -> None:
        """End a job with success.

        Raises:
            UsageError: the job is not held on this connection.

        """
        # This runs once per job, so ``_remove`` and ``encode`` are not called: the calls would take a third
        # of the time.
        try:
            self._held.remove(handle)
        except KeyError:
            raise UsageError(f"job {handle!r} is not held on this connection") from None
        header = HEADER.pack(REQUEST, _COMPLETE_NUMBER, len(handle) + 1 + len(data))
        self._out.append(b"%b%b\0%b" % (header, handle, data))

    def fail(self, handle: bytes) -> None:
        """End a job with failure. Raises as ``complete``."""
        self._remove(handle)
        self._send(Type.WORK_FAIL, handle)

    def exception(self, handle: bytes, data: bytes) -> None:
        """End a job with the text of an error. No other packet may follow for it. Raises as ``complete``."""
        self._remove(handle)
        self._send(Type.WORK_EXCEPTION, handle, data)

    def report(self, handle: bytes, kind: Type, *fields: bytes) -> None:
        """Send WORK_STATUS, WORK_DATA or WORK_WARNING with the fields after the handle.

        Raises:
            UsageError: the job is not held on this connection.

        """
        if handle not in self._held:
            raise UsageError(f"job {handle!r} is not held on this connection")
        self._send(kind, handle, *fields)

    def _remove(self, handle: bytes) -> None:
        try:
            self._held.remove(handle)
        except KeyError:
            raise UsageError(f"job {handle!r} is not held on this connection") from None

    def echo(self, data: bytes = b"") -> None:
        """Ask the server to send ``data`` back, to find out whether it answers."""
        self._send(Type.ECHO_REQ, data)
        self._echoes += 1

    def _send(self, kind: Type, *fields: bytes) -> None:
        self._out.append(encode(REQUEST, kind, *fields))

    def data_to_send(self) -> bytes:
        """Return the bytes to write to the server, once. Grabs for free slots are at their end."""
        self.ask()
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> list[Assigned | Rejected]:
        """Receive bytes from the server; return assigned jobs and rejected packets.

        Raises:
            ProtocolError: the server violated the protocol. Close the connection; it requeues the held jobs.

        """
        events: list[Assigned | Rejected] = []
        held = self._held
        arrived = 0  # number of arrived jobs that the window has not counted yet
        for packet in self._decoder.feed(data):
            assert isinstance(packet, Packet)  # this decoder yields no lines
            kind, fields = packet
            if kind is _ASSIGN or kind is _NO_JOB:
                if not self._grabs:
                    raise ProtocolError(f"the server answers {kind.name} without a grab")
                self._grabs -= 1
            if kind is _ASSIGN:
                handle = fields[0]
                # Nothing could distinguish two jobs with the same handle.
                if handle in held:
                    raise ProtocolError(f"the server assigns {handle!r} twice")
                held.add(handle)
                arrived += 1
                self._dry = False  # an earlier grab may have found nothing, but a job has arrived since
                events.append(Assigned(*fields))
            elif kind is _NO_JOB:
                self._dry = True
                if not self._grabs:
                    self._asleep = True
                    self._send(Type.PRE_SLEEP)
            else:
                if arrived:
                    self._window.arrived(arrived)
                    arrived = 0
                if rejected := self._other(kind, fields):
                    events.append(rejected)
        if arrived:
            self._window.arrived(arrived)
        self.ask()
        return events

    def _other(self, kind: Type, fields: list[bytes]) -> Rejected | None:
        if kind is Type.NOOP:
            # A NOOP is a hint that may come at any time. While a grab is pending, its answer will be newer.
            if not self._grabs:
                self._wake()
        elif kind is Type.ECHO_RES and self._echoes:
            self._echoes -= 1
        elif kind is Type.ERROR:
            return Rejected(fields[0], fields[1])
        else:
            raise ProtocolError(f"the server sends {kind.name} to a worker")
        return None
