"""The events that a client or worker receives from a server."""

from typing import TypeAlias

import msgspec

from garivini.gearman.packets import Type

# ---- events of a client


class Created(msgspec.Struct, frozen=True, gc=False):
    """The server has the job. It does not report whether the job is new or was merged with another one."""

    handle: bytes


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The server refused the request, for example with ``QUEUE_ERROR`` if the function's queue is full."""

    code: bytes
    text: bytes


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """The connection was lost between request and answer: the request may have been carried out."""


class Unsent(msgspec.Struct, frozen=True, gc=False):
    """The connection was lost before the request was written: it was not carried out."""


class Echoed(msgspec.Struct, frozen=True, gc=False):
    """The answer to an echo, with its data."""

    data: bytes


class OptionSet(msgspec.Struct, frozen=True, gc=False):
    """The server has switched the named option on for this connection."""

    option: bytes


class JobStatus(msgspec.Struct, frozen=True, gc=False):
    """The status of a job: whether the server has it, whether a worker runs it, and its progress."""

    known: bool
    running: bool
    numerator: int
    denominator: int


class Lines(msgspec.Struct, frozen=True):
    """The answer to an administrative command: its line, or the lines before the closing ``.``."""

    lines: list[bytes]


class Update(msgspec.Struct, frozen=True):
    """A report of a foreground job: WORK_STATUS, WORK_DATA or WORK_WARNING, without its handle."""

    kind: Type
    fields: list[bytes]


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A foreground job has ended: WORK_COMPLETE, WORK_FAIL (no data) or WORK_EXCEPTION."""

    kind: Type
    data: bytes


Answer: TypeAlias = Created | Refused | Unknown | Echoed | OptionSet | JobStatus | Lines
Event: TypeAlias = Answer | Update | Finished


# ---- events of a worker


class Assigned(msgspec.Struct, frozen=True, gc=False):
    """A job for this worker. ``unique`` is empty if the job was submitted without a unique."""

    handle: bytes
    function: bytes
    unique: bytes
    data: bytes


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The server rejected a packet, usually the end of a job that it no longer knows (``JOB_NOT_FOUND``)."""

    code: bytes
    text: bytes
