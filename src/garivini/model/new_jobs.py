"""New jobs from the arguments of ``insert_job`` and ``insert_jobs``, with a check of each value."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, TypeAlias

from garivini.errors import UsageError
from garivini.model.headers import check_headers
from garivini.model.job import NewJob
from garivini.model.limits import MAX_ARG, MAX_FUNCNAME, MAX_KEY, MAX_PARTITION
from garivini.model.unique import Unique
from garivini.model.when import parse_delay

#: A row of ``insert_jobs``: the original's list ``[funcname, uniqkey, coalesce, arg]``, or a mapping.
JobLike: TypeAlias = Sequence[Any] | Mapping[str, Any]

_ROW_KEYS: Final = frozenset(
    {"funcname", "arg", "unique", "uniqkey", "coalesce", "priority", "expires", "partition", "headers"}
)


def checked_job(
    funcname: str,
    arg: bytes | str,
    run_after: float | timedelta | None,
    unique: str | Unique | None,
    coalesce: str | None,
    flag: str | None,
    *,
    uniqkey: str | None,
    priority: str | None,
    dispatch: bool,
    expires: float | timedelta | None = None,
    partition: str | None = None,
    headers: Mapping[str, Any] | None = None,
) -> NewJob:
    """Return the job that the arguments of ``insert_job`` describe.

    Raises:
        UsageError: an argument cannot be stored.

    """
    return new_job(
        funcname,
        arg,
        uniqkey=_one_key(unique, uniqkey),
        coalesce=coalesce,
        flag=flag,
        priority=priority,
        delay=parse_delay(run_after),
        dispatch=dispatch,
        expires=expires,
        partition=partition,
        headers=headers,
    )


def checked_jobs(
    jobs: Iterable[JobLike], run_after: float | timedelta | None, flag: str | None, *, dispatch: bool
) -> list[NewJob]:
    """Return the jobs that the arguments of ``insert_jobs`` describe.

    Raises:
        UsageError: a job cannot be stored. The message says which.

    """
    delay = parse_delay(run_after)
    common = {"delay": delay, "flag": flag, "dispatch": dispatch}
    return [_row(index, job, common) for index, job in enumerate(jobs)]


def new_job(
    funcname: str,
    arg: bytes | str,
    *,
    uniqkey: str | Unique | None = None,
    coalesce: str | None = None,
    flag: str | None = None,
    priority: str | None = None,
    delay: int = 0,
    dispatch: bool = True,
    expires: float | timedelta | None = None,
    partition: str | None = None,
    headers: Mapping[str, Any] | None = None,
) -> NewJob:
    """Return a job whose values fit the row and the payload.

    Raises:
        UsageError: a value does not fit. The message says which and why.

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
    # NewJob checks these two.
    checked_flag: Any = flag or "shim"
    checked_priority: Any = priority or "normal"
    key, rule = (uniqkey.key, uniqkey.rule) if isinstance(uniqkey, Unique) else (uniqkey, None)
    return NewJob(
        funcname=funcname,
        arg=arg,
        uniqkey=_key(key, "unique key"),
        coalesce=_key(coalesce, "coalesce key"),
        flag=checked_flag,
        priority=checked_priority,
        delay=delay,
        dispatch=dispatch,
        rule=rule,
        expires=0 if expires is None else _expires(expires),
        partition=None if partition is None else _partition(partition),
        headers=None if headers is None else check_headers(headers),
    )


def _expires(expires: float | timedelta) -> int:
    seconds = parse_delay(expires)
    if seconds < 1:
        raise UsageError("expires is a number of seconds from 1 on")
    return seconds


def _one_key(unique: str | Unique | None, uniqkey: str | None) -> str | Unique | None:
    """Return the unique key, for which callers may use either of two arguments."""
    if unique is not None and uniqkey is not None and unique != uniqkey:
        raise UsageError("unique and uniqkey are two names of the same argument: give one")
    return unique if unique is not None else uniqkey


def _row(index: int, row: JobLike, common: Mapping[str, Any]) -> NewJob:
    try:
        if not isinstance(row, list | tuple) and isinstance(row, Mapping):
            unknown = set(row) - _ROW_KEYS
            if unknown:
                known = ", ".join(sorted(_ROW_KEYS))
                raise UsageError(f"{', '.join(sorted(map(repr, unknown)))} is not one of {known}")
            fields = dict(row)
            key = _one_key(fields.pop("unique", None), fields.pop("uniqkey", None))
            if "funcname" not in fields:
                raise UsageError("it has no funcname")
            return new_job(
                fields["funcname"],
                fields.get("arg", b""),
                uniqkey=key,
                coalesce=fields.get("coalesce"),
                priority=fields.get("priority"),
                expires=fields.get("expires"),
                partition=fields.get("partition"),
                headers=fields.get("headers"),
                **common,
            )
        if not isinstance(row, list | tuple) or len(row) != 4:
            raise UsageError("it is neither a mapping nor [funcname, uniqkey, coalesce, arg]")
        funcname, uniqkey, coalesce, arg = row
        return new_job(funcname, arg, uniqkey=uniqkey, coalesce=coalesce, **common)
    except UsageError as error:
        raise UsageError(f"job {index} of the list: {error}; nothing was inserted") from None


@lru_cache(1024)
def _check_funcname(funcname: str) -> None:
    size = len(_utf8(funcname, "function name"))
    if not 0 < size <= MAX_FUNCNAME:
        raise UsageError(f"a function name has 1 to {MAX_FUNCNAME} bytes, this one has {size}")
    # A line break would forge lines of gearmand's status. MariaDB ignores a space at the end.
    if "\0" in funcname or len(funcname.splitlines()) > 1 or funcname != funcname.strip():
        raise UsageError(
            f"function name {funcname!r} has a NUL, a line break, or white space at an end: remove it"
        )


def _key(key: str | None, what: str) -> str | None:
    """Check a key. An empty one means no key, as in Gearman."""
    if key is None or key == "":
        return None
    if not isinstance(key, str):
        raise UsageError(f"a {what} is a str, not {type(key).__name__}")
    _utf8(key, what)
    if len(key) > MAX_KEY:
        raise UsageError(f"a {what} has at most {MAX_KEY} characters, this one {len(key)}: hash it")
    if "\0" in key:
        raise UsageError(f"{what} {key!r} has a NUL character: remove it")
    return key


def _partition(partition: str) -> str | None:
    """Check a partition. An empty one means none."""
    if not isinstance(partition, str):
        raise UsageError(f"a partition is a str, not {type(partition).__name__}")
    size = len(_utf8(partition, "partition"))
    if size > MAX_PARTITION:
        raise UsageError(f"a partition has at most {MAX_PARTITION} bytes, this one {size}: hash it")
    if "\0" in partition:
        raise UsageError(f"partition {partition!r} has a NUL character: remove it")
    return partition or None


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {what} has half of a surrogate pair, which cannot be encoded") from None
