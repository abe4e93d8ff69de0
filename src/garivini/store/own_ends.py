"""Ends a job in a transaction of its own function, so that its effect and its end commit together."""

from collections.abc import Sequence
from typing import Any

from garivini.errors import JobLost, SchemaError, UsageError
from garivini.model.job import Job, NewJob
from garivini.model.lease import LEASE
from garivini.model.outcome import Success
from garivini.store.batches import leave
from garivini.store.callers import driver_of
from garivini.store.connections import Connections
from garivini.store.inserts import unusual_texts
from garivini.store.outbox import insert_here
from garivini.store.outcomes import Missing, finish_all
from garivini.store.statements import Statements


def end_in(
    connections: Connections, connection: Any, job: Job, success: Success, follow_ups: Sequence[NewJob]
) -> None:
    """Delete a job and insert its follow-ups in a caller's transaction, which the caller ends.

    The row is locked first. A success with a retention is kept.

    Args:
        connections: to the database of the job.
        connection: the caller's; see ``callers.cursor_of``.
        job: as its attempt has it.
        success: of the job.
        follow_ups: of the job.

    Raises:
        JobLost: the attempt does not hold the job any more.
        UsageError: the connection leads to another database, or has no transaction.
        GariviniError: as from an insert in the caller's transaction. After any of these errors the caller
            must roll back.

    """
    try:
        with connections.joined(connection, unusual_texts(follow_ups)) as run:
            _end(run, connection, job, success, follow_ups)
    except SchemaError as error:
        message = f"the connection is not one to {connections.where}, which has the job: {error}"
        raise UsageError(message) from error


def _end(run: Statements, connection: Any, job: Job, success: Success, follow_ups: Sequence[NewJob]) -> None:
    _check_database(run)
    if not run.dialect.locks_rows:  # a read would lock nothing, so that another attempt could begin
        run("renew", jobids=[job.jobid], attempt=job.attempt or 0, lease=LEASE)
    rows = run("standing", jobids=[job.jobid])
    _check_transaction(run, connection)
    held = bool(rows) and bool(rows[0][-1]) and rows[0][1] == job.attempt
    if not held or not _is_same(run, job):
        raise _lost(job)
    try:
        members = finish_all(run, [job.jobid], {job.jobid: success} if success.retention else {})
    except Missing:
        raise _lost(job) from None
    if follow_ups:
        insert_here(run, follow_ups)
    if members:
        leave(run, members)


def _lost(job: Job) -> JobLost:
    return JobLost(f"job {job.id} is not attempt {job.attempt}'s any more: roll the transaction back")


def _check_database(run: Statements) -> None:
    if [dbid for (dbid,) in run("dbid")] != [run.dbid]:
        raise UsageError(f"the connection is not one to {run.where}, which has the job")


def _is_same(run: Statements, job: Job) -> bool:
    """Whether the row is that of the job, and not one of another queue or incarnation with the same id."""
    ((_, attempt, created, funcname, uniqkey),) = run("identities", jobids=[job.jobid])
    same = (attempt, funcname, uniqkey) == (job.attempt, job.funcname, job.uniqkey)
    return same and job.created in (0, created)


def _check_transaction(run: Statements, connection: Any) -> None:
    """Make sure that a connection is not in autocommit, in which the end of the job would commit alone."""
    if run.dialect.autocommits(driver_of(connection)):
        raise UsageError("the connection has no transaction: begin one, or turn its autocommit off")
