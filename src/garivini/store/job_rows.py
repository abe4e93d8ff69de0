"""Turns rows into jobs, and new jobs into rows. Here alone the order of a row's columns matters."""

from collections.abc import Sequence
from typing import Any

from garivini.model.job import Job, NewJob
from garivini.model.limits import PRIORITIES
from garivini.model.state import State
from garivini.store.statements import Statements


def from_row(
    row: Sequence[Any],
    dbid: int,
    *,
    lease: int = 0,
    due: int | None = None,
    incarnation: int | None = None,
) -> Job:
    """Return the job of a row.

    Args:
        row: from ``get``, ``jobs``, ``reclaim`` or ``adopt``, which have the same columns.
        dbid: the id of its database.
        lease: seconds of the lease that the job has just got; 0: it has got none.
        due: the job's ``run_after``, if it differs from the row's.
        incarnation: of the database that has given that lease.

    """
    (jobid, funcname, arg, uniqkey, coalesce, run_after, flag, failcount, attempt,
     priority, state, since, crashes, created, runs, partition, headers) = row  # fmt: skip
    return Job(
        jobid,
        dbid,
        funcname,
        arg or b"",
        uniqkey=uniqkey,
        coalesce=coalesce,
        run_after=run_after if due is None else due,
        flag=flag or "shim",
        failcount=failcount,
        attempt=attempt,
        priority=PRIORITIES[priority] if 0 <= priority < len(PRIORITIES) else str(priority),
        state=State(state),
        since=since,
        crashes=crashes,
        created=created,
        lease=lease,
        lease_end=run_after if lease else 0,
        incarnation=incarnation,
        runs=runs,
        partition=partition,
        headers_text=headers,
    )


def from_due_rows(
    rows: Sequence[Any],
    args: dict[int, bytes],
    run: Statements,
    funcname: str,
    priority: str,
    lease: int,
) -> list[Job]:
    """Return the jobs of rows that ``due`` has read and ``claim`` has written, in order.

    ``args`` has the arguments that are not in the rows; ``lease``: seconds of their leases.
    """
    lease_end = rows[0][8] + lease + 1
    dbid, incarnation, leased = run.dbid, run.incarnation, State.LEASED
    jobs = []
    for row in rows:
        (jobid, run_after, arg, uniqkey, coalesce, flag, failcount, attempt, now, created, _, partition,
         headers) = row  # fmt: skip
        job = Job(
            jobid,
            dbid,
            funcname,
            args[jobid] if arg is None else arg,
            uniqkey,
            coalesce,
            run_after,
            flag or "shim",
            failcount,
            attempt + 1,
            priority,
            leased,
            now,
            0,  # crashes
            created,
            lease,
            lease_end,
            incarnation,
            partition=partition,
            headers_text=headers,
        )
        jobs.append(job)
    return jobs


def insert_row(job: NewJob) -> dict[str, Any]:
    """Return the values of the statements ``insert`` and ``insert_keyed`` for a new job."""
    return {
        "funcname": job.funcname,
        "uniqkey": job.uniqkey,
        "coalesce": job.coalesce,
        "arg": job.arg,
        "flag": job.flag,
        "priority": PRIORITIES.index(job.priority),
        "delay": job.lease + 1 if job.lease else job.delay,
        "leased": 1 if job.lease else 0,
    }


def insert_rows(jobs: Sequence[NewJob]) -> list[dict[str, Any]]:
    """Return the values for new jobs that one statement stores.

    If one of the jobs has a partition or headers, all rows get the values ``partition`` and ``headers``,
    which the statements whose names end in ``wide`` require.
    """
    rows = [insert_row(job) for job in jobs]
    if any(job.partition is not None or job.headers is not None for job in jobs):
        for row, job in zip(rows, jobs, strict=True):
            row["partition"] = job.partition
            row["headers"] = job.headers
    return rows


def call_of(bundle: str | None, attempt: int) -> tuple[int, int] | None:
    """Return the id and the attempt of the first job of the bundle of an attempt; None: it has no bundle.

    ``bundle``: the column of the job's row, which may be of an earlier attempt.
    """
    numbers = (bundle or "").split("/")
    if len(numbers) == 3 and all(map(str.isdecimal, numbers)) and int(numbers[0]) == attempt:
        return int(numbers[1]), int(numbers[2])
    return None
