"""A job: its row, its handle, and its form on the Gearman wire. No I/O.

Blobs stay bytes; this is the one place where they meet JSON text.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, get_args

import msgspec
from msgspec.structs import force_setattr

from garivini.errors import UsageError

#: ``run_after`` of a job that is parked for inspection: the largest time of the original's INT column.
NEVER: Final = 2147483647
#: Bytes of an argument, at most: a MEDIUMBLOB.
MAX_ARG: Final = 16 * 1024 * 1024 - 1
#: Bytes of a function's name and characters of a unique key and of a coalesce key, at most.
MAX_FUNCNAME: Final = 200
MAX_KEY: Final = 255
#: Seconds from now, at most: ten years. More is a unix time taken for a delay.
MAX_DELAY: Final = 10 * 365 * 86400
#: Maximum seconds of a lease: a week.
MAX_LEASE: Final = 7 * 86400
#: The largest id of a job and of a database.
MAX_JOBID: Final = 2**63 - 1
MAX_DBID: Final = 2**31 - 1

#: The Gearman function under which a Controller takes jobs of flag ``controller``.
RUN_QUEUED_JOB: Final = "run_queued_job"
#: The Gearman function under which an Injector takes jobs to store.
INJECT_JOBS: Final = "inject_jobs"
#: The Gearman function that lets a QueueRunner look for work at once.
WAKE: Final = "garivini_wake"

Flag: TypeAlias = Literal["shim", "controller"]
FLAGS: Final[tuple[Flag, ...]] = get_args(Flag)
Priority: TypeAlias = Literal["high", "normal", "low"]
#: In the order of the row's numbers.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)


def check_word(what: str, word: object, known: Collection[str]) -> None:
    """Make sure that a word is one of the known ones.

    Raises:
        UsageError: it is not; it names those that are.

    """
    if not isinstance(word, str) or word not in known:
        raise UsageError(f"{what} {word!r:.100} is unknown: it is one of {', '.join(known)}")


class State(IntEnum):
    """Where a job is. The numbers are the row's."""

    #: Due at ``run_after``.
    WAITING = 0
    #: Handed to Gearman; the lease ends at ``run_after``.
    LEASED = 1
    #: Its holder has renewed the lease.
    RUNNING = 2
    #: Its lease ended once and has not been renewed since.
    SUSPECT = 3
    #: Parked until a person decides.
    DEAD = 4

    @classmethod
    def _missing_(cls, value: object) -> "State":
        # A row of another program with an unknown number is never claimed. Other rows must still be readable.
        return cls.DEAD


class Handle(NamedTuple):
    """What names a job to ``complete_job`` and the like.

    ``attempt`` is the fence: without it (None: a payload of the original, a bare pair) a call applies
    whoever holds the job.
    """

    jobid: int
    dbid: int
    attempt: int | None = None

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to insert; the values have been checked.

    Raises:
        UsageError: the flag or the priority is unknown.

    """

    funcname: str
    arg: bytes
    uniqkey: str | None
    coalesce: str | None
    flag: str
    priority: str
    #: Seconds from now by the database's clock.
    delay: int
    #: Seconds of the lease that it is inserted with, as if claimed at once; 0: it waits until it is due.
    lease: int = 0
    #: Whether a client that knows Gearman servers may submit it at once.
    dispatch: bool = True

    def __post_init__(self) -> None:
        check_word("flag", self.flag, FLAGS)
        check_word("priority", self.priority, PRIORITIES)


class Inserted(msgspec.Struct, frozen=True, eq=False):
    """The answer to an insert. Unpacks as ``(jobid, dbid)``."""

    jobid: int
    dbid: int
    #: False where a live job had the unique key already: then ``jobid`` is that job's.
    new: bool = True
    #: Unix time by the database's clock at which it was stored; 0 where it is not new.
    created: int = 0
    #: The state of the live job with the key at that time; None for a new job. It is not compared.
    state: State | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inserted) and self._compared == other._compared

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[int, int, bool, int]:
        return self.jobid, self.dbid, self.new, self.created

    @property
    def dead(self) -> bool:
        """Whether the job is dead; it has the unique key until an operator retries or deletes it."""
        return self.state is State.DEAD

    def __iter__(self) -> Iterator[int]:
        return iter((self.jobid, self.dbid))

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"


class StartCounter:
    """Counts the starts of jobs of one database. A job sent to another process does not have it."""

    __slots__ = ("_count", "in_thread")

    def __init__(
        self,
        count: Callable[[Handle], int],
        in_thread: Callable[[Callable[[], int]], Awaitable[int]],
    ) -> None:
        self._count = count
        #: Calls something in a thread, to be awaited.
        self.in_thread = in_thread

    def __call__(self, handle: Handle) -> int:
        """Count a start of this job; return its number."""
        return self._count(handle)

    def __repr__(self) -> str:
        return "StartCounter()"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as read from its row or received by a worker. Times are unix seconds by the database's clock."""

    jobid: int
    dbid: int
    funcname: str
    arg: bytes
    uniqkey: str | None = None
    coalesce: str | None = None
    #: When due while waiting, the end of the lease while leased; in a payload, when it was due.
    run_after: int = 0
    flag: str = "shim"
    failcount: int = 0
    #: Raised by each claim; None in a payload of the original.
    attempt: int | None = None
    priority: str = "normal"
    state: State = State.WAITING
    #: When it was claimed, or when a server last said that it is queued there.
    since: int = 0
    crashes: int = 0
    created: int = 0
    #: Seconds of this attempt's lease, and when it ends; 0 where unknown.
    lease: int = 0
    lease_end: int = 0
    #: Number of starts that have read ``run``. In a function: 0 until it reads that.
    runs: int = 0
    #: Whether, while it runs, another attempt has taken the job over, or it was cancelled. Then only success
    #: still counts: a function that returns has completed the job all the same. Raise to leave it to the
    #: other attempt, or cancelled.
    lost: bool = False
    #: Counts this start when ``run`` is first read; None outside of a function.
    counter: "StartCounter | None" = None

    def __hash__(self) -> int:
        # Not by all fields: the worker may set ``lost`` while it runs.
        return hash(self.handle)

    @classmethod
    def taken(cls, job: NewJob, stored: Inserted) -> "Job":
        """Return a job that was inserted with a lease, as a claim would have returned it."""
        return cls(
            jobid=stored.jobid,
            dbid=stored.dbid,
            funcname=job.funcname,
            arg=job.arg,
            uniqkey=job.uniqkey,
            coalesce=job.coalesce,
            run_after=stored.created,
            flag=job.flag,
            attempt=1,
            priority=job.priority,
            state=State.LEASED,
            since=stored.created,
            created=stored.created,
            lease=job.lease,
            lease_end=stored.created + job.lease + 1,
        )

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"

    @property
    def handle(self) -> Handle:
        """The job's handle, fenced by its attempt."""
        return Handle(self.jobid, self.dbid, self.attempt)

    @property
    def run(self) -> int:
        """The number of this start of the job, from 1, however the earlier starts ended.

        ``attempt`` does not rise if a Gearman server gives the copy of a killed worker to another one; this
        does. A start is counted when its function first reads this, by one short write to the job's database.
        Starts that do not read it are not counted, so read it at the beginning of each. In an ``async def``
        the write delays the tasks beside it: ``await job.get_run()`` does not.

        Outside of a function: the starts so far that were counted.

        Raises:
            ConflictError: the job is another attempt's by now.
            GariviniError: the database does not answer.

        """
        if self.counter is not None:
            force_setattr(self, "runs", self.counter(self.handle))
            force_setattr(self, "counter", None)
        return self.runs

    async def get_run(self) -> int:
        """Return ``run``, counted in a thread so that other tasks continue."""
        if self.counter is not None:
            await self.counter.in_thread(lambda: self.run)
        return self.runs

    @property
    def json(self) -> Any:
        """The argument, decoded from JSON.

        Raises:
            UsageError: it is not JSON.

        """
        try:
            return msgspec.json.decode(self.arg)
        except msgspec.DecodeError as error:
            raise UsageError(f"the argument of job {self.jobid} is not JSON: {error}") from error

    @property
    def unique(self) -> bytes:
        """Gearman's unique of this attempt, by which a server can be asked for it."""
        return unique_of(self.dbid, self.jobid, self.attempt or 0)


def unique_of(dbid: int, jobid: int, attempt: int) -> bytes:
    """Return Gearman's unique of one attempt. It is short of 63 bytes, which is all a server keeps."""
    return b"%d:%d:%d" % (dbid, jobid, attempt)


_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_Key: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_KEY)]


class _Head(msgspec.Struct, kw_only=True):
    """What a payload says beside the argument. Unknown keys are ignored, those of ours may be absent."""

    jobid: Annotated[int, msgspec.Meta(gt=0, le=MAX_JOBID)]
    dbid: Annotated[int, msgspec.Meta(gt=0, le=MAX_DBID)]
    funcname: Annotated[str, msgspec.Meta(max_length=MAX_FUNCNAME)] = ""
    uniqkey: _Key | None = None
    coalesce: _Key | None = None
    run_after: _Number | None = None
    flag: str | None = None
    failcount: _Number | None = None
    attempt: _Number | None = None
    priority: str | None = None
    lease: Annotated[int, msgspec.Meta(ge=0, le=MAX_LEASE)] = 0
    lease_end: _Number = 0


class _Envelope(_Head, kw_only=True):
    """The JSON object that a worker receives."""

    arg: str | None = None
    arg_encoding: str = "latin-1"


_encoder = msgspec.json.Encoder()
# Lax: the original's database driver hands numbers over as text, and its JSON keeps them so.
_decoder = msgspec.json.Decoder(_Envelope, strict=False)
_head_decoder = msgspec.json.Decoder(_Head, strict=False)


def encode_payload(job: Job, *, latin1: bool = False) -> bytes:
    """Return the payload that carries ``job`` to a worker.

    Bytes that are UTF-8 travel as their text, others as base64; ``arg_encoding`` says which.
    ``latin1`` chooses the original's form, each byte as the code point of the same number, for its workers.
    """
    if latin1:
        arg, encoding = job.arg.decode("latin-1"), "latin-1"
    else:
        try:
            arg, encoding = job.arg.decode(), "utf-8"
        except UnicodeDecodeError:
            arg, encoding = _base64(job.arg), "base64"
    return _encoder.encode(
        _Envelope(
            jobid=job.jobid,
            dbid=job.dbid,
            funcname=job.funcname,
            arg=arg,
            uniqkey=job.uniqkey,
            coalesce=job.coalesce,
            run_after=job.run_after,
            flag=job.flag,
            failcount=job.failcount,
            attempt=job.attempt,
            priority=job.priority,
            lease=job.lease,
            lease_end=job.lease_end,
            arg_encoding=encoding,
        )
    )


def decode_payload(payload: bytes | str, *, with_arg: bool = True) -> Job:
    """Return the job that a payload carries, the original's payloads included.

    ``with_arg``: whether to read the argument, which may be large; else the job's is empty.

    Raises:
        UsageError: it is not such a payload.

    """
    arg = b""
    try:
        if with_arg:
            envelope: _Head = _decoder.decode(payload)
            assert isinstance(envelope, _Envelope)
            arg = decode_arg(envelope.arg or "", envelope.arg_encoding)
        else:
            envelope = _head_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError) as error:
        raise UsageError(f"not the payload of a Garivini job: {error}") from error
    return Job(
        jobid=envelope.jobid,
        dbid=envelope.dbid,
        funcname=envelope.funcname,
        arg=arg,
        uniqkey=envelope.uniqkey,
        coalesce=envelope.coalesce,
        run_after=envelope.run_after or 0,
        flag=envelope.flag or "shim",
        failcount=envelope.failcount or 0,
        attempt=envelope.attempt,
        priority=envelope.priority if envelope.priority in PRIORITIES else "normal",
        lease=envelope.lease,
        lease_end=envelope.lease_end,
    )


def _base64(arg: bytes) -> str:
    # msgspec writes bytes as base64 in C; the quotes around it are JSON's.
    return _encoder.encode(arg)[1:-1].decode("ascii")


def decode_arg(arg: str, encoding: str) -> bytes:
    """Return the bytes that a text carries in one of the forms of ``arg_encoding``.

    Raises:
        ValueError: they are not in that form, or it is not known.

    """
    match encoding:
        case "utf-8":
            return arg.encode()
        case "latin-1":
            return arg.encode("latin-1")
        case "base64":
            return msgspec.json.decode(b'"%s"' % arg.encode("ascii"), type=bytes)
        case _:
            raise ValueError(f"arg_encoding {encoding!r} is not known here: update garivini")


#: A job's id as text: database and job, as in ``1:42``.
_ID: Final = re.compile(r"[0-9]{1,19}:[0-9]{1,19}")


def parse_id(text: str) -> Handle:
    """Return the handle of an id such as ``1:42``: database 1, job 42.

    Raises:
        UsageError: it is not an id.

    """
    if _ID.fullmatch(text):
        dbid, jobid = map(int, text.split(":"))
        if 0 < jobid <= MAX_JOBID and 0 < dbid <= MAX_DBID:
            return Handle(jobid, dbid)
    raise UsageError(f"{text!r:.80} is no job: write 1:42 for job 42 of database 1")


#: What the calls of a client take for a job.
HandleLike: TypeAlias = Job | Handle | tuple[int, int] | Inserted | Mapping[str, Any] | bytes | str


def handle_of(handle: HandleLike) -> Handle:
    """Return the handle in a Job, an id ``"1:42"``, a payload (mapping or JSON) or a pair ``(jobid, dbid)``.

    Raises:
        UsageError: it is none of these.

    """
    match handle:
        case Job():
            named: tuple[Any, ...] = handle.handle
        case Handle():
            named = handle
        case Inserted():
            named = (*handle, None)
        case bytes() | str():
            text = handle if isinstance(handle, str) else handle.decode("utf-8", "replace")
            is_payload = text.lstrip().startswith("{")
            named = decode_payload(handle).handle if is_payload else parse_id(text)
        case Mapping():
            named = tuple(handle.get(name) for name in Handle._fields)
        case (int(), int()):
            named = (*handle, None)
        case _:
            raise UsageError(
                f"{type(handle).__name__} is not a job handle: give a Job, an id such as '1:42', a payload "
                "or (jobid, dbid)"
            )
    jobid, dbid = map(_whole, named[:2])
    attempt = None if named[2] is None else _whole(named[2])
    if not (0 < jobid <= MAX_JOBID and 0 < dbid <= MAX_DBID):
        raise UsageError(f"there is no job {jobid} in database {dbid}: ids are positive and not as large")
    if attempt is not None and not 0 <= attempt < 2**32:
        raise UsageError(f"job {jobid} has no attempt {attempt}")
    return Handle(jobid, dbid, attempt)


def _whole(number: Any) -> int:
    """Take a whole number, or its decimal digits, as the original's JSON has them."""
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 20:
        return int(number)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise UsageError(f"a job handle needs whole numbers jobid and dbid, not {number!r:.50}")


def new_job(
    funcname: str,
    arg: bytes | str,
    *,
    uniqkey: str | None = None,
    coalesce: str | None = None,
    flag: str | None = None,
    priority: str | None = None,
    delay: int = 0,
    dispatch: bool = True,
) -> NewJob:
    """Return a job whose values fit the row and the wire.

    Raises:
        UsageError: one does not; it says which and why.

    """
    if not isinstance(funcname, str):
        raise UsageError(f"a function name is a str, not {type(funcname).__name__}")
    _check_funcname(funcname)
    if isinstance(arg, str):
        arg = _utf8(arg, "argument")
    elif not isinstance(arg, bytes):
        raise UsageError(
            f"an argument is bytes or str, not {type(arg).__name__}: for data, pass json.dumps(data)"
        )
    if len(arg) > MAX_ARG:
        raise UsageError(f"an argument has at most {MAX_ARG} bytes, this one {len(arg)}: store it elsewhere")
    return NewJob(
        funcname=funcname,
        arg=arg,
        uniqkey=_key(uniqkey, "unique key"),
        coalesce=_key(coalesce, "coalesce key"),
        flag=flag or "shim",
        priority=priority or "normal",
        delay=delay,
        dispatch=dispatch,
    )


@lru_cache(1024)
def _check_funcname(funcname: str) -> None:
    size = len(_utf8(funcname, "function name"))
    if not 0 < size <= MAX_FUNCNAME:
        raise UsageError(f"a function name has 1 to {MAX_FUNCNAME} bytes, this one has {size}")
    # A line break would forge lines of gearmand's status, and MariaDB ignores a space at the end.
    if "\0" in funcname or len(funcname.splitlines()) > 1 or funcname != funcname.strip():
        raise UsageError(
            f"function name {funcname!r} has a NUL, a line break, or white space at an end: leave it out"
        )


def _key(key: str | None, what: str) -> str | None:
    """Check a key. The empty one means none, as it does in Gearman."""
    if key is None or key == "":
        return None
    if not isinstance(key, str):
        raise UsageError(f"a {what} is a str, not {type(key).__name__}")
    _utf8(key, what)
    if len(key) > MAX_KEY:
        raise UsageError(f"a {what} has at most {MAX_KEY} characters, this one {len(key)}: hash it")
    if "\0" in key:
        raise UsageError(f"{what} {key!r} has a NUL character: leave it out")
    return key


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {what} has half of a surrogate pair, which no encoding can carry") from None
