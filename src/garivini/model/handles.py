"""The handle of a job from each form in which a caller can name it."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from garivini.errors import UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job
from garivini.model.limits import MAX_DBID, MAX_JOBID
from garivini.model.payload import decode_payload

#: The id of a job as text: database and job, as in ``1:42``.
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
    raise UsageError(f"{text!r:.80} is not the id of a job: write 1:42 for job 42 of database 1")


#: The forms in which a caller can name a job.
HandleLike: TypeAlias = Job | Handle | tuple[int, int] | Inserted | Mapping[str, Any] | bytes | str


def handle_of(handle: HandleLike) -> Handle:
    """Return the handle of a Job, an insert, an id ``"1:42"``, a payload or a pair ``(jobid, dbid)``.

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
            if _is_payload(handle):
                named = decode_payload(handle).handle
            else:
                named = parse_id(handle if isinstance(handle, str) else handle.decode("utf-8", "replace"))
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
        raise UsageError(f"there is no job {jobid} in database {dbid}: ids are positive and smaller")
    if attempt is not None and not 0 <= attempt < 2**32:
        raise UsageError(f"job {jobid} has no attempt {attempt}")
    return Handle(jobid, dbid, attempt)


def named_job(handle: HandleLike) -> Job | Handle:
    """Return a Job, if a Job or payload with an incarnation is given; otherwise return the handle.

    Raises:
        UsageError: it is none of the forms of ``handle_of``.

    """
    match handle:
        case bytes() | str() if _is_payload(handle):
            handle = decode_payload(handle)
        case Mapping() if handle.get("incarnation") is not None:
            try:
                handle = decode_payload(msgspec.json.encode(dict(handle)))
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise UsageError(f"not the payload of a Garivini job: {error}") from error
    named = handle_of(handle)
    return handle if isinstance(handle, Job) and handle.incarnation is not None else named


def _is_payload(text: bytes | str) -> bool:
    return text.lstrip().startswith("{") if isinstance(text, str) else text.lstrip().startswith(b"{")


def _whole(number: Any) -> int:
    """Return a whole number as it is; convert a text of digits, as the JSON of the original has them."""
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 20:
        return int(number)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise UsageError(f"a job handle needs whole numbers jobid and dbid, not {number!r:.50}")
