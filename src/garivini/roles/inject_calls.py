"""The calls of ``inject_jobs``: their JSON, the jobs in it, and the answers. No I/O."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from garivini.errors import (
    ConflictError,
    DuplicateJobError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.limits import MAX_ARG
from garivini.model.new_jobs import checked_job
from garivini.model.payload import decode_arg
from garivini.submission import INJECT_JOBS, RUN_QUEUED_JOB, WAKE

#: Maximum jobs of one call.
MAX_JOBS: Final = 10_000
#: Functions of the system itself. A job of such a function would circulate for ever or do nothing.
RESERVED: Final = frozenset({INJECT_JOBS, RUN_QUEUED_JOB, WAKE})

#: A text. Some languages write a text of digits as a number, which is accepted too.
_Text: TypeAlias = str | int | None


class _Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A job in a call. Unknown keys are refused: with a misspelt one, a delay or unique key would be lost."""

    funcname: str
    arg: msgspec.Raw = msgspec.Raw(b'""')
    arg_encoding: str = "utf-8"
    run_after: int | float | str | None = None
    unique: _Text = None
    uniqkey: _Text = None
    coalesce: _Text = None
    flag: str | None = None
    priority: str | None = None
    partition: _Text = None
    headers: dict[str, Any] | None = None


#: The values of a request that has only a function, an argument, a flag and a priority.
_NO_KEYS: Final = (None,) * 5


class _Answer(msgspec.Struct, omit_defaults=True):
    jobid: int
    dbid: int
    duplicate: bool
    #: ``dead`` if the job with the key is dead, so that nothing will run it. Otherwise omitted.
    state: str | None = None


_request: Final = msgspec.json.Decoder(_Request)
_requests: Final = msgspec.json.Decoder(list[_Request])
_encoder: Final = msgspec.json.Encoder()
_string: Final = msgspec.json.Decoder(str)
_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")
_NUMBER: Final = re.compile(rb"-?[0-9]")
#: The next bracket that is not in a JSON string.
_BRACKET: Final = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{}])', re.DOTALL)
#: Maximum bytes of a job besides its argument. (JSON may write each byte of an argument as up to six bytes.)
_BESIDE: Final = 64 * 1024
#: Maximum brackets of a call: twenty per job, in an array of the maximum number of jobs.
_MOST_BRACKETS: Final = 20 * MAX_JOBS


class Rules(NamedTuple):
    """The rules for jobs that may be stored."""

    #: Names or glob patterns of functions; empty: all.
    allow: Sequence[str] = ()
    #: Maximum bytes of an argument.
    max_arg: int = MAX_ARG
    #: Whether an argument that is not a text is stored as its JSON text.
    json_args: bool = False


def read(payload: bytes, rules: Rules) -> tuple[list[NewJob], bool]:
    """Return the jobs of a call, and whether its payload is an array. An array is answered by an array.

    Raises:
        UsageError: the call is not valid, or one of its jobs may not be stored. The text of the error has the
            index of the job and the reason.

    """
    many = payload[:1] != b"{" and _ARRAY.match(payload) is not None
    _check_size(payload, rules, many=many)
    try:
        requests = _requests.decode(payload) if many else [_request.decode(payload)]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"not a job in JSON, nor an array of jobs: {error}") from None
    if not many:
        return [_job(requests[0], rules)], False
    if not requests:
        raise UsageError(f"an array has 1 to {MAX_JOBS} jobs, this one has 0")
    jobs = []
    for index, request in enumerate(requests):
        try:
            jobs.append(_job(request, rules))
        except UsageError as error:
            raise UsageError(f"job {index} of the array: {error}") from None
    return jobs, True


def _check_size(payload: bytes, rules: Rules, *, many: bool) -> None:
    """Refuse a call that is larger than any valid one before it is decoded."""
    most = (6 * rules.max_arg + _BESIDE) * (MAX_JOBS if many else 1)
    if len(payload) > most:
        raise UsageError(
            f"an argument has at most {rules.max_arg} bytes here, and this call {len(payload)} in all"
        )
    if many:
        _check_length(payload)


def _check_length(payload: bytes) -> None:
    """Refuse an array of too many objects before it is decoded.

    Usually the number of braces is low enough. Otherwise the brackets are checked one by one, up to the first
    object too many; text between two brackets is skipped in one step.
    """
    if payload.count(b"{") <= MAX_JOBS:
        return
    depth = found = position = 0
    for _ in range(_MOST_BRACKETS):
        match = _BRACKET.match(payload, position)
        if match is None:
            return  # the end of the payload, or it is no JSON
        position = match.end()
        if match[1] in b"]}":
            depth -= 1
            continue
        depth += 1
        found += depth == 2
        if found > MAX_JOBS:
            raise UsageError(f"an array has 1 to {MAX_JOBS} jobs, this one has {found} or more")
    raise UsageError(f"an array has at most {_MOST_BRACKETS} brackets, this one has more")


def answer(stored: Sequence[Inserted], *, many: bool) -> bytes:
    """Return the answer to a call whose jobs are stored."""
    answers = [_Answer(at.jobid, at.dbid, not at.new, "dead" if at.dead else None) for at in stored]
    return _encoder.encode(answers if many else answers[0])


#: Refusals by kind of error. The error's own text may name the database and its user: only the log has it.
_REFUSALS: Final[dict[type[GariviniError], str]] = {
    DuplicateJobError: "a job with its unique key exists, and the rule of the key refuses another",
    UsageError: "the database cannot take it: an argument is too large for it, or a value does not fit",
    RefusedError: "the database refused it",
    ConflictError: "another transaction was in the way; try again",
    UnreachableError: "the database cannot be reached; try again",
    SchemaError: "the database is not ready: its tables are not of this version",
}


def refusal(error: Exception) -> str:
    """Return the answer to a call whose jobs are not, or not all, stored because of an error."""
    if isinstance(error, OutcomeUnknownError):
        return "the connection to the database was lost at the commit: it may have been stored"
    for kind, reason in _REFUSALS.items():
        if isinstance(error, kind):
            return f"{reason}; {_stored_part(error) if error.stored else 'nothing was stored'}"
    return "a fault in the Injector: it may have been stored"


def _stored_part(error: GariviniError) -> str:
    """Return which part of an array is stored, in databases other than the one that failed."""
    return (
        f"some of it may have been stored: {len(error.stored)} of its jobs are, in another database. All of "
        "them have a unique key, so the same call can be made again"
    )


def _job(request: _Request, rules: Rules) -> NewJob:
    name = request.funcname
    if name in RESERVED:
        raise UsageError(f"function {name!r} is the system's own: no job of it can be stored")
    if rules.allow and not any(fnmatchcase(name, pattern) for pattern in rules.allow):
        raise UsageError(f"function {name!r} is not among those that may be injected here")
    arg = _arg(request, rules)
    if len(arg) > rules.max_arg:
        raise UsageError(f"an argument has at most {rules.max_arg} bytes here, this one {len(arg)}")
    flag = request.flag or "controller"
    keys = (request.run_after, request.unique, request.uniqkey, request.coalesce, request.partition)
    if keys == _NO_KEYS and request.headers is None:
        return _plain(name, flag, request.priority).with_arg(arg)
    return checked_job(
        name,
        arg,
        _seconds(request.run_after),
        _text(request.unique),
        _text(request.coalesce),
        flag,
        uniqkey=_text(request.uniqkey),
        priority=request.priority,
        dispatch=True,
        partition=_text(request.partition),
        headers=request.headers,
    )


@lru_cache(1024)
def _plain(funcname: str, flag: str, priority: str | None) -> NewJob:
    """Return a job with these fields only. Results are cached: most jobs differ only in the argument."""
    return checked_job(funcname, b"", None, None, None, flag, uniqkey=None, priority=priority, dispatch=True)


def _arg(request: _Request, rules: Rules) -> bytes:
    raw = bytes(request.arg)
    if raw.startswith(b'"'):
        try:
            return decode_arg(_string.decode(raw), request.arg_encoding)
        except (msgspec.DecodeError, ValueError) as error:
            raise UsageError(f"arg is not {request.arg_encoding}: {error}") from None
    if request.arg_encoding != "utf-8":
        raise UsageError(f"arg_encoding {request.arg_encoding} is for an arg that is a JSON string")
    if raw == b"null":
        return b""
    # Some languages turn a text of digits into a number, which is stored as it is written.
    if not _NUMBER.match(raw) and not rules.json_args:
        raise UsageError("arg is nested JSON and no string: give the text of its JSON, by encoding it twice")
    try:
        raw.decode()
    except UnicodeError as error:
        raise UsageError(f"arg is not utf-8: {error}") from None
    return raw


def _text(value: _Text) -> str | None:
    return str(value) if isinstance(value, int) else value


def _seconds(run_after: float | str | None) -> float | None:
    if not isinstance(run_after, str):
        return run_after
    if run_after.isascii() and run_after.isdigit() and len(run_after) < 20:
        return int(run_after)
    raise UsageError(f"run_after is a number of seconds from now, not {run_after!r:.50}")


class Rate:
    """A rate limit: the given number of jobs per second, which is also the burst."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._left = self._burst
        self._at = 0.0

    def use(self, jobs: int, now: float, *, used: int = 0) -> None:
        """Count jobs of a call, besides the ``used`` ones that are counted already. ``now``: monotonic time.

        Raises:
            UsageError: the jobs exceed the rate at this time.

        """
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        too_many = used + jobs > self._burst  # also if time has passed since the first were counted
        if too_many or jobs > self._left:
            when = "this call has more" if too_many else "try again later"
            raise UsageError(f"at most {self._per_second:g} jobs per second are accepted here: {when}")
        self._left -= jobs
