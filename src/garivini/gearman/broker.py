"""A Gearman server without I/O: requests of connections in, bytes for connections out.

It behaves as gearmand does, except where gearmand loses or doubles work: a background job outlives the
foreground clients that share it, a unique that would be cut is refused, and CANT_DO leaves running jobs
alone. Priority applies across all functions of a worker; within one priority its functions take turns, and
the oldest job of a function comes first.

The cost of a request does not grow with the contents of the server: a visit of all functions, or of all
workers of a function, is amortised by as many earlier requests.
"""

from collections import OrderedDict
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
    Key,
    Limits,
    coalescing_key,
)
from garivini.gearman.packets import MAX_FUNCTION, MAX_UNIQUE, RESPONSE, Packet, Type, encode

_NOOP: Final = encode(RESPONSE, Type.NOOP)
_NO_JOB: Final = encode(RESPONSE, Type.NO_JOB)
_MAX_CLIENT_ID: Final = 127
#: White space and control bytes would forge lines of the answer to ``workers``.
_PRINTABLE: Final = bytes(byte if 0x20 < byte != 0x7F else ord("_") for byte in range(256))

Handler = Callable[[Connection, list[bytes]], None]


class Broker:
    """The queues of a server, and the rules by which connections fill and empty them.

    Args:
        prefix: begins every handle, at most 42 bytes.
        version: answer to the administrative command ``version``.
        pid: answer to ``getpid``.
        job_retries: deaths of workers after which a job is dropped; 0: it is never dropped.
        first: number of the first job, at the end of its handle. Numbers must not repeat after a restart.
        limits: how much it may hold.

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
        self.version = version
        self.pid = pid
        self.functions: dict[bytes, Function] = {}
        self.jobs: dict[bytes, Job] = {}
        self.connections: dict[Connection, None] = {}
        self.limits = limits
        self._prefix = prefix
        self._job_retries = job_retries
        self._handles = count(first)
        self._sequence = count(1)
        self._touched: list[Connection] = []
        #: Queued and running jobs that a submit can join; by function if several have a job with this key.
        self._live: dict[Key, Job | OrderedDict[Function, Job]] = {}
        self._max_unsent = limits.unread
        self._job_bytes = 0
        self._function_bytes = 0
        self._registration_bytes = 0
        #: Functions that were idle at the last check; if there are too many, the first is removed.
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        # By the number of the type: a list is read faster than a dictionary of enum members.
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
            # There are no reducers here, and without one gearmand answers as to GRAB_JOB_UNIQ too.
            Type.GRAB_JOB_ALL: partial(self._grab, Type.JOB_ASSIGN_UNIQ),
            Type.SUBMIT_JOB: partial(self._submit, NORMAL, False),
            Type.SUBMIT_JOB_BG: partial(self._submit, NORMAL, True),
            Type.SUBMIT_JOB_HIGH: partial(self._submit, HIGH, False),
            Type.SUBMIT_JOB_HIGH_BG: partial(self._submit, HIGH, True),
            Type.SUBMIT_JOB_LOW: partial(self._submit, LOW, False),
            Type.SUBMIT_JOB_LOW_BG: partial(self._submit, LOW, True),
            Type.SUBMIT_JOB_SCHED: partial(self._unsupported, Type.SUBMIT_JOB_SCHED),
            Type.SUBMIT_JOB_EPOCH: partial(self._unsupported, Type.SUBMIT_JOB_EPOCH),
            Type.SUBMIT_REDUCE_JOB: partial(self._unsupported, Type.SUBMIT_REDUCE_JOB),
            Type.SUBMIT_REDUCE_JOB_BACKGROUND: partial(self._unsupported, Type.SUBMIT_REDUCE_JOB_BACKGROUND),
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
        }

    # ---- what the outside calls

    def join(self, number: int, host: bytes) -> Connection:
        """Add a connection; ``number`` and ``host`` are shown by ``workers``."""
        connection = Connection(number, host)
        self.connections[connection] = None
        return connection

    def leave(self, connection: Connection) -> None:
        """Take a connection away: its jobs go to other workers, nobody waits for its results."""
        if connection not in self.connections:
            return
        del self.connections[connection]
        self._reset_abilities(connection, [])
        for job in connection.follows:
            del job.clients[connection]
            # Work that has begun is not called back; at its worker's death it would not be done again.
            if job.worker is None and not job.wanted:
                self._drop(job)
        connection.follows = set()
        for job in sorted(connection.held.values(), key=lambda job: job.sequence):
            self._abandon(job)
        connection.held.clear()
        connection.out.clear()
        connection.unsent = 0

    def receive(self, connection: Connection, packet: Packet) -> None:
        """Take one request of a connection. What is to be sent for it is in ``outgoing``."""
        self._handlers[packet.type](connection, packet.fields)

    def send(self, connection: Connection, data: bytes) -> None:
        """Add to what is to be written to a connection."""
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

        A connection that has overflowed is yielded too: close it.
        """
        touched, self._touched = self._touched, []
        for connection in touched:
            data = b"".join(connection.out)
            connection.out.clear()
            connection.unsent = 0
            if data or connection.overflowed:
                yield connection, data

    def function(self, name: bytes) -> Function:
        """Return the function of this name; it exists from its first mention.

        Raises:
            UsageError: the name cannot be one.

        """
        found = self.functions.get(name)
        if found is None:
            self._make_room(_check_name(name))
            found = self.functions[name] = Function(name)
            self._function_bytes += RECORD + len(name)
            self._note_idle(found)
        return found

    def _make_room(self, name: bytes) -> None:
        """Forget idle functions until there is room for this one."""
        while self._function_bytes + RECORD + len(name) > self.limits.function_bytes:
            if not self._idle:
                raise UsageError("there are too many functions")
            found = self.functions.get(self._idle.popitem(last=False)[0])
            if found is not None and found.idle:
                self._remove(found)

    def _remove(self, function: Function) -> None:
        del self.functions[function.name]
        self._idle.pop(function.name, None)
        self._function_bytes -= RECORD + len(function.name)

    def _note_idle(self, function: Function) -> None:
        """Remember a function that may be forgotten, if it still is idle then."""
        if function.idle:
            self._idle[function.name] = None

    def drop(self, function: Function) -> bool:
        """Drop a function and the jobs that wait for it; not while it has workers or runs. Return whether.

        gearmand does so too, but does not notify the waiting clients.
        """
        if function.workers or function.running:
            return False
        for queue in function.queues:
            for job in list(queue.values()):
                self._drop(job)
        self._remove(function)
        return True

    def cancel(self, handle: bytes) -> bool:
        """End a job that waits; of a job that runs, take no notice any more. Say whether it was there."""
        job = self.jobs.get(handle)
        if job is None:
            return False
        if job.worker is None:
            self._drop(job)
        else:
            job.background = False
            self._tell_failure(job)
        return True

    # ---- clients

    def _submit(self, priority: int, background: bool, connection: Connection, fields: list[bytes]) -> None:
        name, unique, data = fields
        try:
            function = self.functions.get(name) or self.function(name)
        except UsageError as error:
            return self.refuse(connection, b"INVALID_FUNCTION", str(error).encode())
        if len(unique) > MAX_UNIQUE:
            text = b"a unique has at most %d bytes" % MAX_UNIQUE
            return self.refuse(connection, b"ARGUMENT_TOO_LARGE", text)
        job = self._to_join(function, unique, data) if unique else None
        if job is None:
            if function.full(priority):
                # gearmand's code and not JOB_QUEUE_FULL, which its source has and never sends.
                return self.refuse(connection, b"QUEUE_ERROR", b"the function's queue is full")
            limits = self.limits
            size = self._job_bytes + len(data) + len(unique)
            if len(self.jobs) >= limits.jobs or size > limits.job_bytes:
                return self.refuse(connection, b"QUEUE_ERROR", b"the server's queue is full")
            job = Job(b"%s:%d" % (self._prefix, next(self._handles)), function, unique, data, priority)
            self._remember(job)
            self._enqueue(job)
        self.send(connection, encode(RESPONSE, Type.JOB_CREATED, job.handle))
        if background:
            job.background = True
        else:
            job.follow(connection)
        return None

    def _to_join(self, function: Function, unique: bytes, data: bytes) -> Job | None:
        found = self._live.get(coalescing_key(unique, data))
        if isinstance(found, OrderedDict):
            return found.get(function)
        return found if found is not None and found.function is function else None

    def _get_status(self, connection: Connection, fields: list[bytes]) -> None:
        # A NUL in what comes back would shift the fields behind it.
        handle = fields[0].partition(b"\0")[0]
        job = self.jobs.get(handle)
        self.send(connection, encode(RESPONSE, Type.STATUS_RES, handle, *_state(job)))

    def _get_status_unique(self, connection: Connection, fields: list[bytes]) -> None:
        unique = fields[0].partition(b"\0")[0]
        found = self._live.get(unique)
        job = next(iter(found.values())) if isinstance(found, OrderedDict) else found
        clients = b"%d" % sum(job.clients.values()) if job else b"0"
        self.send(connection, encode(RESPONSE, Type.STATUS_RES_UNIQUE, unique, *_state(job), clients))

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
            function = self.function(fields[0])
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
            self._note_idle(function)

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
        """Return the job if this connection works on it; nobody else may speak for it."""
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
        self._forget(job)

    def _report(self, kind: Type, connection: Connection, fields: list[bytes]) -> None:
        job = self._held(connection, fields[0])
        if job is not None and job.clients:
            packet = encode(RESPONSE, kind, job.handle, *fields[1:])
            for client, submits in job.clients.items():
                self._send_each(client, packet, submits)

    def _send_each(self, client: Connection, packet: bytes, submits: int) -> None:
        """Send a packet once for each submit, until the client is closed."""
        self.send(client, packet * min(submits, 2 + self.limits.unread // len(packet)))

    def _progress(self, connection: Connection, fields: list[bytes]) -> None:
        job = connection.held.get(fields[0])
        if job is not None:
            job.numerator, job.denominator = _number(fields[1]), _number(fields[2])
        self._report(Type.WORK_STATUS, connection, fields)

    # ---- the life of a job

    def _enqueue(self, job: Job) -> None:
        """Put a job last in the queue of its priority and wake who can do it."""
        job.sequence = next(self._sequence)
        function, priority = job.function, job.priority
        function.queues[priority][job.sequence] = job
        watchers = function.watchers[priority]
        if not watchers:
            return
        function.watchers[priority] = {}
        # All of them: were only one woken, its death or slowness would keep the job waiting.
        for worker in watchers:
            worker.ready[priority][function] = None
            if worker.asleep:
                worker.asleep = False
                self.send(worker, _NOOP)

    def _abandon(self, job: Job) -> None:
        """Take a job back from a worker that is gone: others get it, unless it seems to kill workers."""
        job.worker = None
        job.numerator = job.denominator = 0
        job.function.running -= 1
        job.retries += 1
        if job.wanted and job.retries != self._job_retries:
            self._enqueue(job)
        else:
            self._tell_failure(job)
            self._forget(job)

    def _drop(self, job: Job) -> None:
        """End a job that waits."""
        del job.function.queues[job.priority][job.sequence]
        self._tell_failure(job)
        self._forget(job)

    def _tell_failure(self, job: Job) -> None:
        packet = encode(RESPONSE, Type.WORK_FAIL, job.handle)
        for client, submits in job.clients.items():
            self._send_each(client, packet, submits)
            client.follows.discard(job)
        job.clients = NOBODY

    def _remember(self, job: Job) -> None:
        self.jobs[job.handle] = job
        self._job_bytes += len(job.data) + len(job.unique)
        if job.key:
            other = self._live.setdefault(job.key, job)
            if isinstance(other, OrderedDict):
                other[job.function] = job
            elif other is not job:
                self._live[job.key] = OrderedDict({other.function: other, job.function: job})

    def _forget(self, job: Job) -> None:
        del self.jobs[job.handle]
        self._job_bytes -= len(job.data) + len(job.unique)
        function = job.function
        if job.key:
            live = self._live[job.key]
            if isinstance(live, OrderedDict) and len(live) > 1:
                del live[function]
            else:
                del self._live[job.key]
        for client in job.clients:
            client.follows.discard(job)
        if not function.workers:
            self._note_idle(function)


def _state(job: Job | None) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the fields known, running, numerator and denominator."""
    if job is None:
        return b"0", b"0", b"0", b"0"
    return b"1", b"1" if job.worker else b"0", b"%d" % job.numerator, b"%d" % job.denominator


def _check_name(name: bytes) -> bytes:
    """Return the name if it can be a function's.

    gearmand accepts any bytes, and closes the connection if a name does not fit its buffer. With a NUL its
    own lines would show only the part before it.
    """
    if len(name) > MAX_FUNCTION:
        raise UsageError(f"a function name has at most {MAX_FUNCTION} bytes, this one has {len(name)}")
    if b"\0" in name:
        raise UsageError("a function name has no NUL byte")
    return name


def _number(field: bytes) -> int:
    """Read progress as gearmand does: what is no number is 0."""
    return int(field) if len(field) <= 10 and field.isdigit() else 0
