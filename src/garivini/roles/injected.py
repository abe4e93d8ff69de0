"""What a call of ``inject_jobs`` says: JSON text in, jobs to store out. No I/O."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from garivini.errors import UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.limits import MAX_ARG
from garivini.model.new_jobs import checked_job
from garivini.model.payload import decode_arg
from garivini.submission import INJECT_JOBS, RUN_QUEUED_JOB, WAKE

#: Jobs of one call, at most.
MAX_JOBS: Final = 10_000
#: Functions of the system itself: such a job would go round, or do nothing.
RESERVED: Final = frozenset({INJECT_JOBS, RUN_QUEUED_JOB, WAKE})

#: Some languages write a text that looks like a number as a number.
_Text: TypeAlias = str | int | None


class _Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A job in a call. Unknown keys are refused: one that is misspelt would lose a delay or a unique key."""

    funcname: str
    arg: msgspec.Raw = msgspec.Raw(b'""')
    arg_encoding: str = "utf-8"
    run_after: int | float | str | None = None
    unique: _Text = None
    uniqkey: _Text = None
    coalesce: _Text = None
    flag: str | None = None
    priority: str | None = None


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
#: The next bracket that is not in a text.
_BRACKET: Final = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{}])', re.DOTALL)
#: Bytes of a job besides its argument, each byte of which takes up to six.
_BESIDE: Final = 64 * 1024
#: Maximum brackets of a call. In an array of the maximum number of jobs that is twenty per job.
_MOST_BRACKETS: Final = 20 * MAX_JOBS


class Rules(NamedTuple):
    """What may be stored."""

    #: Names or glob patterns of functions; empty: all.
    allow: Sequence[str] = ()
    #: Bytes of an argument, at most.
    max_arg: int = MAX_ARG
    #: Whether an argument that is no text is stored as its JSON text.
    json_args: bool = False


def read(payload: bytes, rules: Rules) -> tuple[list[NewJob], bool]:
    """Return the jobs of a call, and whether it was an array: then it is answered by one.

    Raises:
        UsageError: it cannot be understood, or one of its jobs may not be stored; it says which and why.

    """
    many = _ARRAY.match(payload) is not None
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
            return  # the end, or no JSON
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
    """Return what a call is told whose jobs are stored."""
    answers = [_Answer(at.jobid, at.dbid, not at.new, "dead" if at.dead else None) for at in stored]
    return _encoder.encode(answers if many else answers[0])


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
    if request.run_after is request.unique is request.uniqkey is request.coalesce is None:
        return replace(_plain(name, flag, request.priority), arg=arg)
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
    )


@lru_cache(1024)
def _plain(funcname: str, flag: str, priority: str | None) -> NewJob:
    """Return a job with nothing but these: nearly all are so, and of few functions."""
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
    # A number is what some languages make of a text of digits. It keeps its own form.
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
    """The given number of jobs per second, which is also the burst."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._left = self._most
        self._at = 0.0

    def take(self, jobs: int, now: float, *, taken: int = 0) -> None:
        """Count further jobs of a call, of which ``taken`` have been counted; ``now``: a monotonic time.

        Raises:
            UsageError: there are too many at this time.

        """
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        too_many = taken + jobs > self._most  # also if time has passed since the first were counted
        if too_many or jobs > self._left:
            when = "never so many at once" if too_many else "try again later"
            raise UsageError(f"at most {self._per_second:g} jobs a second are taken here: {when}")
        self._left -= jobs
