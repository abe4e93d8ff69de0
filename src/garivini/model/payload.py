"""The payload of a job: the data of its copies in Gearman.

Only here an argument becomes JSON text; everywhere else it is bytes.
"""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.limits import MAX_DBID, MAX_FUNCNAME, MAX_JOBID, MAX_KEY, MAX_LEASE, PRIORITIES
from garivini.model.state import State

_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_Key: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_KEY)]


class _Head(msgspec.Struct, gc=False):
    """A payload without its argument. Unknown keys are ignored; keys that the original lacks are optional."""

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
    created: _Number = 0
    incarnation: _Number | None = None
    #: Omitted if the job has none.
    partition: str | msgspec.UnsetType | None = msgspec.UNSET
    #: An object; omitted if the job has none.
    headers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Envelope(_Head, gc=False):
    """The JSON object that a worker receives."""

    arg: str | None = None
    arg_encoding: str = "latin-1"
    #: The other jobs of the call, in the same form. Omitted if there are none.
    bundle: "list[_Envelope] | msgspec.UnsetType | None" = msgspec.UNSET


# Read for each job. A name of the module is found faster than a member of an enum.
_WAITING: Final = State.WAITING

_encoder = msgspec.json.Encoder()
# Not strict: the database driver of the original returns numbers as text, and its JSON has them as text.
_decoder = msgspec.json.Decoder(_Envelope, strict=False)
_head_decoder: msgspec.json.Decoder[_Head] = msgspec.json.Decoder(_Head, strict=False)


def encode_payload(job: Job, *, latin1: bool = False) -> bytes:
    """Return the payload of a job.

    An argument that is UTF-8 becomes text, and any other becomes base64; ``arg_encoding`` says which. With
    ``latin1``, each byte becomes the character of the same number, as workers of the original expect it.
    """
    return _encoder.encode(_envelope(job, latin1))


def _envelope(job: Job, latin1: bool) -> _Envelope:
    if latin1:
        arg, encoding = job.arg.decode("latin-1"), "latin-1"
    else:
        try:
            arg, encoding = job.arg.decode(), "utf-8"
        except UnicodeDecodeError:
            arg, encoding = _base64(job.arg), "base64"
    return _Envelope(
        job.jobid,
        job.dbid,
        job.funcname,
        job.uniqkey,
        job.coalesce,
        job.run_after,
        job.flag,
        job.failcount,
        job.attempt,
        job.priority,
        job.lease,
        job.lease_end,
        job.created,
        job.incarnation,
        msgspec.UNSET if job.partition is None else job.partition,
        msgspec.UNSET if job.headers_text is None else _headers(job),
        arg,
        encoding,
        [_envelope(member, latin1) for member in job.members] if job.members else msgspec.UNSET,
    )


def decode_payload(payload: bytes | str, *, with_arg: bool = True) -> Job:
    """Return the job that a payload describes. Payloads of the original are accepted too.

    ``with_arg``: whether to decode the argument, which may be large; otherwise it is empty.

    Raises:
        UsageError: it is not the payload of a job.

    """
    try:
        if with_arg:
            envelope = _decoder.decode(payload)
            job = _job(envelope, _arg(envelope))
            if envelope.bundle:
                members = tuple([_job(member, _arg(member)) for member in envelope.bundle])
                force_setattr(job, "members", members)
            return job
        return _job(_head_decoder.decode(payload), b"")
    except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError) as error:
        raise UsageError(f"not the payload of a Garivini job: {error}") from error


def _arg(envelope: _Envelope) -> bytes:
    text = envelope.arg or ""
    utf8 = envelope.arg_encoding == "utf-8"  # most are
    return text.encode() if utf8 else decode_arg(text, envelope.arg_encoding)


def _job(head: _Head, arg: bytes) -> Job:
    return Job(  # by position, which is faster: one is built per job
        head.jobid,
        head.dbid,
        head.funcname,
        arg,
        head.uniqkey,
        head.coalesce,
        head.run_after or 0,
        head.flag or "shim",
        head.failcount or 0,
        head.attempt,
        head.priority if head.priority in PRIORITIES else "normal",
        _WAITING,
        0,  # since
        0,  # crashes
        head.created,
        head.lease,
        head.lease_end,
        head.incarnation,
        partition=head.partition or None,
        headers_text=bytes(head.headers).decode() if head.headers else None,
    )


def _headers(job: Job) -> msgspec.Raw:
    """Return the headers of a job. Another program may have stored something that is not JSON."""
    return msgspec.Raw(_encoder.encode(job.headers))


def _base64(arg: bytes) -> str:
    # msgspec encodes bytes as base64 in C. The quotes are those of JSON.
    return _encoder.encode(arg)[1:-1].decode("ascii")


def decode_arg(arg: str, encoding: str) -> bytes:
    """Return the argument that a text encodes.

    Raises:
        ValueError: the text is not in this encoding, or the encoding is unknown.

    """
    match encoding:
        case "utf-8":
            return arg.encode()
        case "latin-1":
            return arg.encode("latin-1")
        case "base64":
            return msgspec.json.decode(b'"%s"' % arg.encode("ascii"), type=bytes)
        case _:
            raise ValueError(f"arg_encoding {encoding!r} is unknown: update garivini")
