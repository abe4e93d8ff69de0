"""A Gearman server without I/O: it receives requests of connections, and returns bytes for connections.

It behaves as gearmand does, except where gearmand loses a job or runs it twice. A background job outlives the
foreground clients that share it, a unique that gearmand would cut is refused, and CANT_DO does not affect
running jobs. A worker gets the most urgent job of all its functions first. Within one priority the functions
take turns, and the oldest job of a function comes first.

The cost of a request does not grow with the contents of the server. A request that visits all functions of a
worker, or all workers of a function, can come only after at least as many cheaper requests.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Final

from garivini.errors import UsageError
from garivini.gearman.jobs import (
    HIGH,
    LIMITS,
    LOW,
    NOBODY,
    NORMAL,
    RECORD,
    Connection,
    Function,
    Job,
    Limits,
    status_fields,
)
from garivini.gearman.packets import MAX_UNIQUE, RESPONSE, Packet, Type, encode
from garivini.gearman.queues import Functions, Jobs

_NOOP: Final = encode(RESPONSE, Type.NOOP)
_NO_JOB: Final = encode(RESPONSE, Type.NO_JOB)
_MAX_CLIENT_ID: Final = 127
#: Replaces white space and control bytes, which could forge lines of the answer to ``workers``.
_PRINTABLE: Final = bytes(byte if 0x20 < byte != 0x7F else ord("_") for byte in range(256))

_UNSUPPORTED: Final = (
    Type.SUBMIT_JOB_SCHED,
    Type.SUBMIT_JOB_EPOCH,
    Type.SUBMIT_REDUCE_JOB,
    Type.SUBMIT_REDUCE_JOB_BACKGROUND,
)
Handler = Callable[[Connection, list[bytes]], None]


class Broker:
    """The queues of a server, and the rules by which the requests of connections fill and empty them.

    Args:
        prefix: the beginning of every handle: up to 42 bytes.
        version: the answer to the administrative command ``version``.
        pid: the answer to ``getpid``.
        job_retries: deaths of workers after which a job is dropped; 0: it is never dropped.
        first: the number at the end of the first job's handle. No number may repeat after a restart.
        limits: upper bounds of jobs, bytes and connections.

    """

    def __init__(
        self,
        prefix: bytes,
        *,
        version: bytes = b"",
        pid: int = 0,
        job_retries: int = 3,
        first: int = 1,
        limits: Limits = LIMITS,
    ) -> None:
        self.version: bytes = version
        self.pid: int = pid
        self.functions: Functions = Functions(limits.function_bytes)
        self.jobs: Jobs = Jobs(self.functions)
        self.connections: dict[Connection, None] = {}
        self.limits: Limits = limits
        self._prefix = prefix
        self._job_retries = job_retries
        self._handles = count(first)
        self._sequence = count(1)
        #: Connections with pending output.
        self._touched: list[Connection] = []
        self._max_unsent = limits.unread
        self._registration_bytes = 0
        # Handlers by the number of the packet type: a list is faster than a dictionary of enum members.
        self._handlers: list[Handler] = [self._unexpected] * (max(Type) + 1)
        for kind, handler in self._table().items():
            self._handlers[kind] = handler

    def _table(self) -> dict[Type, Handler]:
        return {
            Type.CAN_DO: self._can_do,
            Type.CAN_DO_TIMEOUT: self._can_do,
            Type.CANT_DO: self._cant_do,
            Type.RESET_ABILITIES: self._reset_abilities,
            Type.PRE_SLEEP: self._pre_sleep,
            Type.GRAB_JOB: partial(self._grab, Type.JOB_ASSIGN),
            Type.GRAB_JOB_UNIQ: partial(self._grab, Type.JOB_ASSIGN_UNIQ),
            # This server has no reducers. For a job without a reducer, gearmand sends the same answer.
            Type.GRAB_JOB_ALL: partial(self._grab, Type.JOB_ASSIGN_UNIQ),
            Type.SUBMIT_JOB: partial(self._submit, NORMAL, False),
            Type.SUBMIT_JOB_BG: partial(self._submit, NORMAL, True),
            Type.SUBMIT_JOB_HIGH: partial(self._submit, HIGH, False),
            Type.SUBMIT_JOB_HIGH_BG: partial(self._submit, HIGH, True),
            Type.SUBMIT_JOB_LOW: partial(self._submit, LOW, False),
            Type.SUBMIT_JOB_LOW_BG: partial(self._submit, LOW, True),
            Type.WORK_COMPLETE: partial(self._finish, Type.WORK_COMPLETE),
            Type.WORK_FAIL: partial(self._finish, Type.WORK_FAIL),
            Type.WORK_EXCEPTION: partial(self._finish, Type.WORK_EXCEPTION),
            Type.WORK_DATA: partial(self._report, Type.WORK_DATA),
            Type.WORK_WARNING: partial(self._report, Type.WORK_WARNING),
            Type.WORK_STATUS: self._progress,
            Type.GET_STATUS: self._get_status,
            Type.GET_STATUS_UNIQUE: self._get_status_unique,
            Type.ECHO_REQ: self._echo,
            Type.OPTION_REQ: self._option,
            Type.SET_CLIENT_ID: self._set_client_id,
            **{kind: partial(self._unsupported, kind) for kind in _UNSUPPORTED},
        }

    # ---- calls of the server and its console

    def join(self, number: int, host: bytes) -> Connection:
        """Add a connection. ``workers`` shows its number and host."""
        connection = Connection(number, host)
        self.connections[connection] = None
        return connection

    def leave(self, connection: Connection) -> None:
        """Remove a connection: other workers get the jobs that it ran, and it is no longer a job's client."""
        if connection not in self.connections:
            return
        del self.connections[connection]
        self._reset_abilities(connection, [])
        for job in connection.follows:
            del job.clients[connection]
            # A running job that is not wanted any more continues, but is not repeated if its worker dies.
            if job.worker is None and not job.wanted:
                self._drop(job)
        connection.follows = set()
        for job in sorted(connection.held.values(), key=lambda job: job.sequence):
            self._abandon(job)
        connection.held.clear()
        connection.out.clear()
        connection.unsent = 0

    def receive(self, connection: Connection, packet: Packet) -> None:
        """Receive one request of a connection. ``outgoing`` yields the output that the request causes."""
        self._handlers[packet.type](connection, packet.fields)

    def send(self, connection: Connection, data: bytes) -> None:
        """Add to the output of a connection."""
        if not connection.out:
            if connection.overflowed:
                return
            self._touched.append(connection)
        connection.out.append(data)
        connection.unsent += len(data)
        if connection.unsent > self._max_unsent and connection.unsent > self._max_unsent + len(data):
            connection.overflowed = True
            connection.out = []
            connection.unsent = 0

    def refuse(self, connection: Connection, code: bytes, text: bytes) -> None:
        """Answer a request with an ERROR."""
        self.send(connection, encode(RESPONSE, Type.ERROR, code, text))

    def outgoing(self) -> Iterator[tuple[Connection, bytes]]:
        """Yield the pending output of each connection, once. Exhaust the iterator.

        A connection whose output has overflowed is yielded too: close it.
        """
        touched, self._touched = self._touched, []
        for connection in touched:
            data = b"".join(connection.out)
            connection.out.clear()
            connection.unsent = 0
            if data or connection.overflowed:
                yield connection, data

    def drop(self, function: Function) -> bool:
        """Drop a function and its queued jobs, unless it has workers or running jobs; return whether it did.

        gearmand does this too, but does not notify the waiting clients.
        """
        if function.workers or function.running:
            return False
        for queue in function.queues:
            for job in list(queue.values()):
                self._drop(job)
        self.functions.remove(function)
        return True

    def cancel(self, handle: bytes) -> bool:
        """End a queued job, or let a running job end without effect; return whether the job existed."""
        job = self.jobs.get(handle)
        if job is None:
            return False
        if job.worker is None:
            self._drop(job)
        else:
            job.background = False
            self._send_failure(job)
        return True

    # ---- clients

    def _submit(self, priority: int, background: bool, connection: Connection, fields: list[bytes]) -> None:
        name, unique, data = fields
        try:
            function = self.functions.get(name) or self.functions.get_or_add(name)
        except UsageError as error:
            return self.refuse(connection, b"INVALID_FUNCTION", str(error).encode())
        if len(unique) > MAX_UNIQUE:
            text = b"a unique has at most %d bytes" % MAX_UNIQUE
            return self.refuse(connection, b"ARGUMENT_TOO_LARGE", text)
        job = self.jobs.to_join(function, unique, data) if unique else None
        if job is None:
            if function.full(priority):
                # gearmand sends QUEUE_ERROR too. It also defines JOB_QUEUE_FULL, but never sends that code.
                return self.refuse(connection, b"QUEUE_ERROR", b"the function's queue is full")
            size = self.jobs.size + len(data) + len(unique)
            if len(self.jobs) >= self.limits.jobs or size > self.limits.job_bytes:
                return self.refuse(connection, b"QUEUE_ERROR", b"the server's queue is full")
            job = Job(b"%s:%d" % (self._prefix, next(self._handles)), function, unique, data, priority)
            self.jobs.add(job)
            self._enqueue(job)
        self.send(connection, encode(RESPONSE, Type.JOB_CREATED, job.handle))
        if background:
            job.background = True
        else:
            job.follow(connection)
        return None

    def _get_status(self, connection: Connection, fields: list[bytes]) -> None:
        # A NUL byte in the answer would shift the fields behind it.
        handle = fields[0].partition(b"\0")[0]
        job = self.jobs.get(handle)
        self.send(connection, encode(RESPONSE, Type.STATUS_RES, handle, *status_fields(job)))

    def _get_status_unique(self, connection: Connection, fields: list[bytes]) -> None:
        unique = fields[0].partition(b"\0")[0]
        job = self.jobs.of_unique(unique)
        clients = b"%d" % sum(job.clients.values()) if job else b"0"
        self.send(connection, encode(RESPONSE, Type.STATUS_RES_UNIQUE, unique, *status_fields(job), clients))

    def _echo(self, connection: Connection, fields: list[bytes]) -> None:
        self.send(connection, encode(RESPONSE, Type.ECHO_RES, fields[0]))

    def _option(self, connection: Connection, fields: list[bytes]) -> None:
        if fields[0].rstrip(b"\0") != b"exceptions":
            return self.refuse(connection, b"UNKNOWN_OPTION", b"the only option is exceptions")
        connection.exceptions = True
        return self.send(connection, encode(RESPONSE, Type.OPTION_RES, fields[0]))

    def _set_client_id(self, connection: Connection, fields: list[bytes]) -> None:
        connection.client_id = fields[0][:_MAX_CLIENT_ID].translate(_PRINTABLE) or b"-"

    def _unexpected(self, connection: Connection, fields: list[bytes]) -> None:
        self.refuse(connection, b"INVALID_COMMAND", b"a client or worker cannot send this packet")

    def _unsupported(self, kind: Type, connection: Connection, fields: list[bytes]) -> None:
        self.refuse(connection, b"NOT_SUPPORTED", b"%s is not supported by this server" % kind.name.encode())

    # ---- workers

    def _can_do(self, connection: Connection, fields: list[bytes]) -> None:
        try:
            function = self.functions.get_or_add(fields[0])
        except UsageError as error:
            return self.refuse(connection, b"INVALID_FUNCTION", str(error).encode())
        if function.name in connection.functions:
            return None
        size = RECORD + len(function.name)
        if self._registration_bytes + size > self.limits.registration_bytes:
            return self.refuse(connection, b"QUEUE_ERROR", b"there are too many registered functions")
        self._registration_bytes += size
        if connection.learn(function) and connection.asleep:
            connection.asleep = False
            self.send(connection, _NOOP)
        return None

    def _cant_do(self, connection: Connection, fields: list[bytes]) -> None:
        function = connection.functions.get(fields[0])
        if function:
            connection.unlearn(function)
            self._registration_bytes -= RECORD + len(function.name)
            self.functions.note_idle(function)

    def _reset_abilities(self, connection: Connection, fields: list[bytes]) -> None:
        for name in list(connection.functions):
            self._cant_do(connection, [name])

    def _pre_sleep(self, connection: Connection, fields: list[bytes]) -> None:
        connection.asleep = connection.next_job() is None
        if not connection.asleep:
            self.send(connection, _NOOP)

    def _grab(self, kind: Type, connection: Connection, fields: list[bytes]) -> None:
        connection.asleep = False
        job = connection.next_job()
        if job is None:
            return self.send(connection, _NO_JOB)
        function = job.function
        connection.ready[job.priority].move_to_end(function)
        del function.queues[job.priority][job.sequence]
        function.running += 1
        job.worker = connection
        connection.held[job.handle] = job
        if kind is Type.JOB_ASSIGN:
            return self.send(connection, encode(RESPONSE, kind, job.handle, function.name, job.data))
        packet = encode(RESPONSE, kind, job.handle, function.name, job.unique, job.data)
        return self.send(connection, packet)

    def _held(self, connection: Connection, handle: bytes) -> Job | None:
        """Return the job if this connection holds it; no other connection may report on it."""
        job = connection.held.get(handle.rstrip(b"\0"))
        if job is None:
            self.refuse(connection, b"JOB_NOT_FOUND", b"this connection holds no such job")
        return job

    def _finish(self, kind: Type, connection: Connection, fields: list[bytes]) -> None:
        job = self._held(connection, fields[0])
        if job is None:
            return
        del connection.held[job.handle]
        job.function.running -= 1
        if job.clients:
            packet = encode(RESPONSE, kind, job.handle, *fields[1:])
            failure = encode(RESPONSE, Type.WORK_FAIL, job.handle)
            for client, submits in job.clients.items():
                plain = kind is Type.WORK_EXCEPTION and not client.exceptions
                self._send_each(client, failure if plain else packet, submits)
        self.jobs.remove(job)

    def _report(self, kind: Type, connection: Connection, fields: list[bytes]) -> None:
        job = self._held(connection, fields[0])
        if job is not None and job.clients:
            packet = encode(RESPONSE, kind, job.handle, *fields[1:])
            for client, submits in job.clients.items():
                self._send_each(client, packet, submits)

    def _send_each(self, client: Connection, packet: bytes, submits: int) -> None:
        """Send a packet once per submit, until the output of the connection overflows."""
        self.send(client, packet * min(submits, 2 + self.limits.unread // len(packet)))

    def _progress(self, connection: Connection, fields: list[bytes]) -> None:
        job = connection.held.get(fields[0])
        if job is not None:
            job.numerator, job.denominator = _number(fields[1]), _number(fields[2])
        self._report(Type.WORK_STATUS, connection, fields)

    # ---- the life of a job

    def _enqueue(self, job: Job) -> None:
        """Put a job last in the queue of its priority and wake the workers of its function."""
        job.sequence = next(self._sequence)
        function, priority = job.function, job.priority
        function.queues[priority][job.sequence] = job
        watchers = function.watchers[priority]
        if not watchers:
            return
        function.watchers[priority] = {}
        # All workers are woken: if only one were, its death or slowness would delay the job.
        for worker in watchers:
            worker.ready[priority][function] = None
            if worker.asleep:
                worker.asleep = False
                self.send(worker, _NOOP)

    def _abandon(self, job: Job) -> None:
        """Queue the job of a worker that has left again, unless it has killed too many workers."""
        job.worker = None
        job.numerator = job.denominator = 0
        job.function.running -= 1
        job.retries += 1
        if job.wanted and job.retries != self._job_retries:
            self._enqueue(job)
        else:
            self._send_failure(job)
            self.jobs.remove(job)

    def _drop(self, job: Job) -> None:
        """End a queued job."""
        del job.function.queues[job.priority][job.sequence]
        self._send_failure(job)
        self.jobs.remove(job)

    def _send_failure(self, job: Job) -> None:
        packet = encode(RESPONSE, Type.WORK_FAIL, job.handle)
        for client, submits in job.clients.items():
            self._send_each(client, packet, submits)
            client.follows.discard(job)
        job.clients = NOBODY


def _number(field: bytes) -> int:
    """Read progress as gearmand does: anything but a number is 0."""
    return int(field) if len(field) <= 10 and field.isdigit() else 0
