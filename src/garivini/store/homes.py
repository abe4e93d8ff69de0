"""Computes the home of a job among several databases. No I/O."""

from collections.abc import Collection, Mapping
from zlib import crc32

from garivini.errors import UsageError
from garivini.model.job import Job, NewJob
from garivini.model.policy import RuleScope


def home_of_job(
    dbids: Collection[int], job: Job | NewJob, scopes: Mapping[str, RuleScope] | None
) -> int | None:
    """Return the id of the database that a job belongs to; None: it may be in any.

    A database keeps the rules of functions without regard to the others. So the jobs of a function with rules
    are in one database, or those of each partition are if it has only rules of partitions.

    Args:
        dbids: the ids of the databases; at least one.
        job: to place.
        scopes: what the rules of functions apply to, by function.

    """
    scope = scopes.get(job.funcname) if scopes else None
    if scope == "function":
        return home_of(dbids, job.funcname, "")
    if job.uniqkey is not None:
        return home_of(dbids, job.funcname, job.uniqkey)
    return None if scope is None else home_of(dbids, job.funcname, job.partition or "")


def check_key(job: NewJob, scopes: Mapping[str, RuleScope]) -> None:
    """Check that a unique key is unique, although the jobs of each partition have a home of their own.

    Raises:
        UsageError: two jobs with this key could be in different databases.

    """
    if job.uniqkey is not None and scopes.get(job.funcname) == "partition":
        raise UsageError(
            f"{job.funcname} has rules of partitions only, so its jobs are in several databases and have no "
            "unique keys. With another rule, such as max_running=10000, they are in one and can have keys"
        )


def home_of(dbids: Collection[int], funcname: str, uniqkey: str) -> int:
    """Return the id of the database of a unique key: rendezvous on the CRC-32 of function and key.

    If a database is added, only the keys that now belong to it move. If one is removed, only its keys move.

    Args:
        dbids: the ids of the databases; at least one.
        funcname: the function.
        uniqkey: the key.

    """
    key = crc32(f"{funcname}\0{uniqkey}".encode())
    return max(dbids, key=lambda dbid: _weight(key, dbid))


def _weight(key: int, dbid: int) -> int:
    """Mix a CRC with an id: CRCs of similar texts differ by a constant, which would give uneven shares."""
    value = (key ^ dbid * 0x9E3779B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        value = (value ^ value >> shift) * factor & 0xFFFFFFFF
    return value
