"""Tries what clients, QueueRunners and workers do, in a transaction that is rolled back."""

from garivini.model.job import Handle
from garivini.model.lease import MIN_LEASE
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback, Success
from garivini.store import outcomes, policies, records
from garivini.store.connections import Connections
from garivini.store.job_rows import insert_row
from garivini.store.statements import Statements


class _RollBack(Exception):
    """Rolls the transaction back."""


def probe(connections: Connections) -> int:
    """Do what clients, QueueRunners and workers do, and roll it back; return the id that the job got.

    Raises:
        GariviniError: one of the steps fails; the message says why.

    """
    jobid = 0
    try:
        with connections.transaction() as run:
            jobid = _try_all(run)
            raise _RollBack
    except _RollBack:
        return jobid


def _try_all(run: Statements) -> int:
    ((jobid, created),) = run.dialect.insert(run, [insert_row(new_job("garivini_probe", b""))])
    run("claim", jobids=[jobid], now=created, lease_end=created + MIN_LEASE)
    handle = Handle(jobid, run.dbid, 1)
    records.report(run, [Report(handle, "status", b"1/1"), Report(handle, "data", b"")])
    outcomes.settle(run, [Setback(handle=handle, kind="failed")])
    records.keep(run, Success(jobid, handle.attempt), 1)
    run("complete", jobids=[jobid])
    outcomes.forget_records(run, [jobid])
    run("forget_finished", jobids=[jobid])
    policies.functions(run)
    return jobid
