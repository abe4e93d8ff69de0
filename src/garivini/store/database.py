"""One database of jobs: the calls of clients, dispatchers and workers. Blocking; safe for threads."""

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Self

from garivini.databases import DatabaseSettings
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.job_query import JobQuery
from garivini.model.outcome import Setback, Settled, Success
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store import (
    admission,
    bulk,
    cancels,
    claims,
    ends,
    incarnations,
    inserts,
    leases,
    outbox,
    outcomes,
    own_ends,
    pauses,
    policies,
    probe,
    pruning,
    records,
    search,
    turn_pruning,
    views,
)
from garivini.store import failures as failed_attempts
from garivini.store.batch_calls import BatchCalls
from garivini.store.calls import in_transaction, read_only, retry_transient
from garivini.store.chunks import CHUNK
from garivini.store.claims import Lane, Lanes
from garivini.store.connections import Connections
from garivini.store.key_rules import KeyRules
from garivini.store.leases import Lapsed
from garivini.store.schedule_calls import ScheduleCalls
from garivini.store.statements import Statements
from garivini.store.values import check_values
from garivini.store.views import Count, Waiting

__all__ = ["Count", "Database", "Lane", "Lanes", "Lapsed", "Waiting"]


class Database(BatchCalls, ScheduleCalls):
    """One database that holds jobs.

    Construction does no I/O. Each call is one transaction, which happens as a whole or not at all; the
    functions that it runs are in the modules beside this one. Calls raise the errors of ``garivini.errors``,
    most often ``UnreachableError``, ``RefusedError``, ``ConflictError``, ``OutcomeUnknownError`` and
    ``SchemaError``. A call with ``locked`` does not wait for rows that another transaction has locked: it
    skips them and puts their ids into ``locked``; if anything else is locked, it raises a ``ConflictError``.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.dbid: int = settings.dbid
        self.connections: Connections = Connections(settings)
        #: Names the database in messages: its id, and its URL without the password.
        self.where: str = self.connections.where
        self._key_rules: KeyRules = KeyRules()

    # ---- the database itself

    @property
    def dialect(self) -> str:
        """The kind of database: ``sqlite``, ``mysql`` (MariaDB too) or ``postgresql``."""
        return self.connections.dialect.name

    @property
    def locks_rows(self) -> bool:
        """Whether a transaction locks rows, and not the whole database."""
        return self.connections.dialect.locks_rows

    @property
    def statement_bytes(self) -> int:
        """Maximum bytes of the arguments of one statement, as far as is known."""
        return self.connections.dialect.statement_bytes

    @property
    def incarnation(self) -> int | None:
        """The incarnation that was reached last: see ``store.incarnations``. None: the database has none."""
        return self.connections.incarnation

    @retry_transient
    def expect(self) -> int | None:
        """Return the incarnation that connections reach now; from here on, allow writes in it only.

        In another incarnation, calls that write raise ``ReplacedError`` until this method is called again.
        """
        return self.connections.expect()

    def expecting(self, incarnation: int | None) -> Self:
        """Return this database with calls that write only in the given incarnation; None: in any.

        In another incarnation, calls that write raise ``ReplacedError``.
        """
        if incarnation is None:
            return self
        other = copy.copy(self)
        other.connections = self.connections.expecting(incarnation)
        return other

    recognised: Final = in_transaction(incarnations.recognised)

    def with_lock_timeout(self, seconds: float) -> Self:
        """Return the same database with other connections, whose maximum wait for a row lock is ``seconds``.

        MariaDB and MySQL accept only whole seconds, and get at least 1. A database without row locks is
        returned as it is.
        """
        if not self.locks_rows:
            return self
        other = copy.copy(self)
        other.connections = self.connections.with_lock_timeout(seconds)
        return other

    def is_at(self, url: str) -> bool:
        """Whether a URL leads to this database, whatever its user and driver."""
        return self.connections.is_at(url)

    def upgrade(self) -> None:
        """Bring the schema to the version of this code.

        Does nothing if the schema has this version already, or a newer one that this code can use.

        Raises:
            SchemaError: the schema has a newer version that this code cannot use.

        """
        self.connections.upgrade()

    def check(self, *, name: bool = True) -> str:
        """Make sure that this code can use the schema, and that the id stored in the database is this one.

        Args:
            name: whether to store this id in a database that has none, which is a write.

        Returns:
            The revision of the schema: this code's, or a newer one that this code can use.

        Raises:
            SchemaError: the database has no schema, a schema that this code cannot use, or another id.

        """
        return self.connections.check(name=name)

    def nodes(self) -> frozenset[str]:
        """Return the names of the nodes of a Galera cluster that connections reach at the same time.

        More than one is a fault: see ``docs/how-to/galera.md``. If there is no cluster, none, without I/O.
        """
        return self.connections.nodes()

    def close(self) -> None:
        """Close the idle connections, unless they are a caller's Engine's. A later call opens new ones."""
        self.connections.close()

    def reading(self) -> AbstractContextManager[Statements]:
        """Run statements that read, each on its own."""
        return self.connections.reading()

    def transaction(self) -> AbstractContextManager[Statements]:
        """Run several statements as one transaction."""
        return self.connections.transaction()

    # ---- inserts

    @retry_transient
    def insert(self, jobs: Sequence[NewJob], *, connection: Any = None) -> list[Inserted]:
        """Insert jobs in one transaction; return one answer per job, in order.

        A job with a lease is stored as if it had been claimed: attempt 1, leased.

        Args:
            jobs: to insert.
            connection: a caller's own, whose transaction then gets the jobs; see ``callers.cursor_of``.

        """
        jobs = self._with_key_rules(jobs)
        sizes = [len(job.arg) for job in jobs]
        if connection is not None:
            with self.connections.joined(connection, inserts.unusual_texts(jobs)) as run:
                return inserts.insert(run, jobs, sizes)
        single = inserts.fits_one_statement(jobs, sizes, self.connections.dialect)
        with self.connections.transaction(single=single) as run:
            return inserts.insert(run, jobs, sizes)

    live: Final = read_only(inserts.live)

    # ---- claims and leases

    lanes: Final = read_only(claims.lanes)
    head: Final = in_transaction(admission.head)
    claim: Final = in_transaction(claims.claim)
    admit: Final = in_transaction(admission.admit)
    dispatched: Final = read_only(claims.dispatched)
    leased: Final = read_only(claims.leased)
    _broken_jobs = read_only(claims.broken_jobs)

    def park_broken(self, names: Collection[bytes]) -> list[tuple[Setback, Settled]]:
        """Park jobs whose function's name is not text, at most 1,000 per name."""
        setbacks = self._broken_jobs(names)
        return list(zip(setbacks, self.settle(setbacks), strict=True)) if setbacks else []

    renew: Final = in_transaction(leases.renew)
    release: Final = in_transaction(leases.release)
    give_back: Final = in_transaction(leases.give_back)
    mark_leased: Final = in_transaction(leases.mark_leased)
    end_early: Final = in_transaction(leases.end_early)
    expired: Final = read_only(leases.expired)
    requeue: Final = in_transaction(leases.requeue)
    extend: Final = in_transaction(leases.extend)
    reclaim: Final = in_transaction(leases.reclaim)
    adopt: Final = in_transaction(leases.adopt)

    # ---- outcomes and records

    @retry_transient
    def complete(self, jobids: Collection[int], *, locked: set[int] | None = None) -> set[int]:
        """Delete jobs that succeeded, with their records; return the ids that existed."""
        check_values({"jobids": jobids})
        return outcomes.finish(self.connections, sorted(set(jobids)), {}, locked)

    @retry_transient
    def finish(
        self,
        successes: Sequence[Success],
        *,
        locked: set[int] | None = None,
        follow_ups: Mapping[int, Sequence[NewJob]] = {},  # not changed
    ) -> set[int]:
        """Delete jobs as ``complete`` does, but keep those with a retention; return the ids that existed.

        A result that is too large for the database is omitted; the job has succeeded anyway.

        Args:
            successes: of the jobs.
            locked: see the class.
            follow_ups: jobs to insert in the same transaction, by the id of their job, if that existed.

        """
        kept = {success.jobid: success for success in successes if success.retention}
        jobids = sorted({success.jobid for success in successes})
        follow_ups = {jobid: self._with_key_rules(jobs) for jobid, jobs in follow_ups.items()}
        return outcomes.finish(self.connections, jobids, kept, locked, follow_ups)

    _retention = read_only(records.retention)

    def finish_as_set(self, success: Success) -> bool:
        """Finish a job with the retention that its function has now; return whether the job existed."""
        retention = self._retention(success.jobid)
        return bool(self.finish([success._replace(retention=retention)]))

    def end_in(self, connection: Any, job: Job, success: Success, follow_ups: Sequence[NewJob] = ()) -> None:
        """Delete a job and insert its follow-ups in a caller's transaction. See ``own_ends.end_in``."""
        own_ends.end_in(self.connections, connection, job, success, self._with_key_rules(follow_ups))

    ended: Final = read_only(ends.ended)
    present: Final = read_only(outcomes.present)
    settle: Final = in_transaction(outcomes.settle)
    marks: Final = read_only(cancels.marks)
    cancelled: Final = read_only(cancels.cancelled)
    count_run: Final = in_transaction(outcomes.count_run)
    retry: Final = in_transaction(outcomes.retry)
    report: Final = in_transaction(records.report)
    reports: Final = read_only(records.reports)
    finished: Final = read_only(records.kept_job)
    kept_jobs: Final = read_only(records.kept_jobs)
    failures: Final = read_only(failed_attempts.failures)
    record: Final = read_only(failed_attempts.failure_rows)
    failure_page: Final = read_only(failed_attempts.failure_page)
    omitted_failures: Final = read_only(failed_attempts.omitted_failures)

    @retry_transient
    def forget_finished(self, limit: int = CHUNK) -> int:
        """Delete kept jobs whose retention is over, with their records; return how many.

        If there are no such jobs, the call costs one statement.
        """
        with self.connections.reading() as run:
            jobids = pruning.outlived_jobs(run, limit)
        if jobids:
            with self.connections.transaction() as run:
                pruning.forget_kept_jobs(run, jobids)
        return len(jobids)

    @retry_transient
    def forget_dead(self, after: int = 0, limit: int = CHUNK) -> tuple[int, int | None]:
        """Delete dead jobs whose retention is over, with their records; one page of failure records is read.

        If no function has a ``dead_retention``, the call costs one statement.

        Args:
            after: only jobs with greater ids.
            limit: maximum jobs to delete.

        Returns:
            The number of deleted jobs, and the id after which the next page begins; None: it was the last.

        """
        with self.connections.reading() as run:
            days = pruning.dead_retentions(policies.functions(run))
            page = pruning.outlived_dead_jobs(run, days, after, limit)
        if not page.jobids:
            return 0, page.after
        with self.connections.transaction() as run:
            return pruning.forget_dead_jobs(run, page.jobids, days), page.after

    _turns_left = read_only(turn_pruning.turns_left)
    _forget_turns = in_transaction(turn_pruning.forget_turns)
    _forget_rates = in_transaction(turn_pruning.forget_rates)

    def forget_partitions(self, limit: int = CHUNK) -> int:
        """Delete turns, and times of rates, that are no longer needed; return how many: see ``turn_pruning``.

        Deletes at most ``limit`` turns per function, and ``limit`` times. If there are none: two statements.
        """
        deleted = sum(self._forget_turns(name, limit) for name in self._turns_left())
        return deleted + self._forget_rates(limit)

    # ---- functions

    function_settings: Final = read_only(policies.function_settings)
    _undeclared = read_only(policies.undeclared)
    _declare = in_transaction(policies.declare)

    def register_functions(self, given: Mapping[str, FunctionPolicy]) -> bool:
        """Store the settings that code declares, by function; return whether any of them is new."""
        changed = {name: given[name] for name in self._undeclared(given)}
        if changed:
            self._declare(changed)
        return bool(changed)

    set_function: Final = in_transaction(policies.set_function)
    unset_function: Final = in_transaction(policies.unset_function)
    replace_function: Final = in_transaction(policies.replace_function)
    pause: Final = in_transaction(pauses.pause)
    resume: Final = in_transaction(pauses.resume)
    take_back: Final = in_transaction(pauses.take_back)

    # ---- the outbox

    outbox_targets: Final = read_only(outbox.targets)
    outgoing: Final = read_only(outbox.outgoing)
    receive: Final = in_transaction(outbox.receive)
    leave_outbox: Final = in_transaction(outbox.leave)
    retarget: Final = in_transaction(outbox.retarget)
    forget_arrivals: Final = in_transaction(outbox.forget_arrivals)

    # ---- views

    get: Final = read_only(views.get)
    newest: Final = read_only(search.newest)
    match: Final = read_only(search.match)
    read_jobs: Final = read_only(search.read_jobs)
    change: Final = in_transaction(bulk.change)

    def jobs(
        self,
        *,
        funcname: str | None = None,
        state: State | None = None,
        failed: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs in the order of their ids. Each statement by itself examines at most 1,000 jobs.

        Args:
            funcname: only jobs of this function.
            state: only jobs in this state.
            failed: only jobs that have failed or crashed, or are dead.
            after: only jobs with greater ids.
            limit: maximum number of jobs.

        """
        query = JobQuery(funcname=funcname, state=state, failed=failed)
        return [job for found in search.find(self, query, after=after, limit=limit) for job in found.jobs]

    counts: Final = read_only(views.counts)
    waiting: Final = read_only(views.waiting)
    clock: Final = read_only(views.clock)
    facts: Final = read_only(views.facts)

    @retry_transient
    def probe(self) -> int:
        """Do what clients, QueueRunners and workers do, and roll it back; return the id that the job got.

        Raises:
            GariviniError: one of the steps fails; the message says why.

        """
        return probe.probe(self.connections)
