"""Reads the end of a call: success, failure, retry, discard, follow-ups. No I/O."""

from typing import Annotated, Any, Final

import msgspec

from garivini.errors import UsageError
from garivini.gearman.packets import Type
from garivini.gearman.protocol import Finished
from garivini.model.job import Job
from garivini.model.limits import MAX_DELAY, Flag, Priority
from garivini.model.outcome import Setback
from garivini.model.pacing import BATCH_BYTES
from garivini.model.when import Offset, parse_delay

_COMPLETE: Final = Type.WORK_COMPLETE
#: Maximum bytes of a retry or discard answer.
_MAX_ANSWER: Final = 64 * 1024


class _Retry(msgspec.Struct, forbid_unknown_fields=True):
    retry: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY)]
    reason: str = ""


class _Discard(msgspec.Struct, forbid_unknown_fields=True):
    discard: str


class _RetryAnswer(msgspec.Struct, forbid_unknown_fields=True):
    garivini: _Retry


class _DiscardAnswer(msgspec.Struct, forbid_unknown_fields=True):
    garivini: _Discard


class FollowUp(msgspec.Struct, forbid_unknown_fields=True):
    """A job to insert with the success of another one."""

    funcname: str
    arg: str = ""
    run_after: float | None = None
    unique: str | None = None
    coalesce: str | None = None
    flag: Flag | None = None
    priority: Priority | None = None
    expires: float | None = None
    partition: str | None = None
    headers: dict[str, Any] | None = None


class FollowUps(msgspec.Struct, forbid_unknown_fields=True):
    """A success with follow-ups."""

    insert: list[FollowUp]
    #: The result to keep.
    result: str = ""


class _FollowUpsAnswer(msgspec.Struct, forbid_unknown_fields=True):
    garivini: FollowUps


class _AnyAnswer(msgspec.Struct):
    garivini: dict[str, msgspec.Raw]


_retry = msgspec.json.Decoder(_RetryAnswer)
_discard = msgspec.json.Decoder(_DiscardAnswer)
_follow_ups = msgspec.json.Decoder(_FollowUpsAnswer)
_any = msgspec.json.Decoder(_AnyAnswer)


def setback_of(end: Finished, job: Job, worker: str) -> Setback | None:
    """Return the setback of an attempt, or None if it succeeded.

    Args:
        end: WORK_COMPLETE, WORK_FAIL or WORK_EXCEPTION with its data.
        job: the job with this attempt.
        worker: the name for the failure record.

    """
    if end.kind is _COMPLETE and end.data[:1] != b"{":  # nearly always
        return None
    if (answer := _answer(end.data)) is not None:
        return _requested(answer, job, worker)
    if end.kind is _COMPLETE:
        return None
    message = text_of(end.data) or "the worker gave no reason"
    return Setback(handle=job.handle, kind="failed", error=end.kind.name, message=message, worker=worker)


def _requested(answer: _Retry | _Discard, job: Job, worker: str) -> Setback:
    if isinstance(answer, _Discard):
        return Setback(
            handle=job.handle, kind="discarded", error="Discard", message=answer.discard, worker=worker
        )
    return Setback(
        handle=job.handle,
        kind="rescheduled",
        error="Retry",
        message=answer.reason,
        worker=worker,
        when=Offset(parse_delay(answer.retry)),
    )


def _answer(data: bytes) -> _Retry | _Discard | None:
    """Read ``{"garivini": {"retry": SECONDS, "reason": TEXT}}`` or ``{"garivini": {"discard": TEXT}}``.

    Data that differs from both forms in any way is an ordinary result or error text.
    """
    if data[:1] != b"{" or b'"garivini"' not in data[:64] or len(data) > _MAX_ANSWER:
        return None
    for decoder in (_retry, _discard):
        try:
            return decoder.decode(data).garivini
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass
    return None


def follow_ups_of(data: bytes) -> FollowUps | None:
    """Read ``{"garivini": {"insert": [{"funcname": NAME, …}, …], "result": TEXT}}`` from a success.

    Data without the key ``insert`` is an ordinary result.

    Raises:
        UsageError: it has the key and is invalid. As an ordinary result, it would lose its follow-ups.

    """
    if data[:1] != b"{" or b'"garivini"' not in data[:64]:
        return None
    try:
        if "insert" not in _any.decode(data).garivini:
            return None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if len(data) > BATCH_BYTES:
        raise UsageError(f"an answer with follow-ups has at most {BATCH_BYTES} bytes, this one {len(data)}")
    try:
        return _follow_ups.decode(data).garivini
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"an answer with follow-ups cannot be read: {error}") from None


def text_of(data: bytes) -> str:
    """Return the text of an exception; Perl's worker sends it in Storable form, which is decoded."""
    if data[:1] == b"\x05" and len(data) > 4:
        kind, data = data[2], data[3:]
        if kind in (0x0A, 0x17):  # up to 255 bytes
            data = data[1 : 1 + data[0]]
        elif kind in (0x01, 0x18):
            data = data[4 : 4 + int.from_bytes(data[:4], "big")]
        encoding = "latin-1" if kind in (0x0A, 0x01) else "utf-8"
        try:
            return data.decode("utf-8").strip()
        except UnicodeDecodeError:
            return data.decode(encoding, "backslashreplace").strip()
    return data.decode("utf-8", "backslashreplace")
