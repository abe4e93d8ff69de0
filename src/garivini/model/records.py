"""The records of a job beside its row: its failures, its reports, and the kept job after its success."""

from typing import Literal, NamedTuple

from garivini.model.outcome import Kind, ReportKind


class FailedAttempt(NamedTuple):
    """The failure of one attempt: a row of the table ``failure``."""

    attempt: int
    #: Unix time by the database's clock.
    failed_at: int
    #: The kind of setback. ``omitted``: a row that counts omitted failures, which no client returns.
    kind: Kind | Literal["omitted"]
    #: The name of the exception's class, or empty.
    error: str
    message: str
    #: The traceback, or empty.
    trace: str
    #: The name of the worker or Controller that ran the attempt, or empty.
    worker: str


class Reported(NamedTuple):
    """A report of a running job: a row of the table ``report``."""

    attempt: int
    #: ``status`` (progress), ``data`` or ``warning`` (a line).
    kind: ReportKind
    #: Unix time by the database's clock. Of a status, the time of the last one.
    reported_at: int
    #: Of a status, ``b"numerator/denominator"``.
    body: bytes


class KeptJob(NamedTuple):
    """A job that has succeeded and is kept. Times are unix seconds by the database's clock."""

    jobid: int
    funcname: str
    uniqkey: str | None
    attempt: int
    #: Failures before the success.
    failcount: int
    created: int
    finished_at: int
    #: Unix time at which the kept job may be deleted.
    expires: int
    #: The worker that ran it; empty if unknown.
    worker: str
    #: The result. If a ``Worker`` ran the job, it is the return value as JSON. None: it could not be kept,
    #: and a report of kind ``warning`` says why.
    result: bytes | None
    #: How long the attempt ran; None: unknown.
    seconds: float | None = None
