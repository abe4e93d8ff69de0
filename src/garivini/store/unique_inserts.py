"""Inserts of jobs whose unique keys have rules, in a transaction.

An insert locks first the key's row in ``recent_key``, if the key has a window, and then the row of the key's
job. So it takes turns with other inserts of the key, with claims and with the end of that job.
"""

from typing import Final, NamedTuple

from garivini.errors import ConflictError, DuplicateJobError, RefusedError
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.limits import PRIORITIES
from garivini.model.state import State
from garivini.model.unique import DEBOUNCE_MAX_DELAY, KeyRule
from garivini.store import successors
from garivini.store.job_rows import insert_rows
from garivini.store.statements import Statements

#: Tries to insert a job while other inserts of its key come and go.
_TRIES: Final = 6


class _KeyedRow(NamedTuple):
    """The job of a key, as the statement ``keyed_row`` returns it."""

    jobid: int
    attempt: int
    state: State
    run_after: int
    created: int
    #: The database's time, rounded down and rounded up.
    now: int
    next_second: int

    @property
    def never_handed_out(self) -> bool:
        return self.state is State.WAITING and self.attempt == 0

    def due(self, job: NewJob) -> int:
        """Return when a new job would be due."""
        return self.next_second + job.delay if job.delay else self.now


def insert_ruled(run: Statements, job: NewJob, rule: KeyRule) -> Inserted:
    """Insert a job by the rules of its key; return the result.

    Raises:
        DuplicateJobError: a job with the key exists, and the rule is ``raise``.
        ConflictError: in each try, other jobs of the key came and went.

    """
    assert job.uniqkey is not None
    for _ in range(_TRIES):
        if rule.open_for is not None:
            rows = run("recent_key", funcname=job.funcname, uniqkey=job.uniqkey)
            if not rows:
                continue  # it was deleted while this call waited for its lock
            jobid, is_open = rows[0]
            if is_open:
                return _existing(run, job, rule, jobid, None)
        row = _lock_row(run, job.funcname, job.uniqkey)
        if row is not None and row.state is State.DEAD and rule.frees_dead:
            run("free_key", jobid=row.jobid)
            row = None
        inserted = _insert(run, job, rule) if row is None else _duplicate(run, job, rule, row)
        if inserted is not None:
            return inserted
    raise ConflictError(f"{run.where}: jobs of a unique key came and went; try again")


def _lock_row(run: Statements, funcname: str, uniqkey: str) -> _KeyedRow | None:
    rows = run("keyed_row", funcname=funcname, uniqkey=uniqkey)
    if not rows:
        return None
    jobid, attempt, state, *times = rows[0]
    if len(times) > 4 and not times[4]:
        raise folded_key(run, funcname, uniqkey, jobid)
    return _KeyedRow(jobid, attempt, State(state), *times[:4])


def folded_key(run: Statements, funcname: str, uniqkey: str | None, jobid: int) -> RefusedError:
    """Return the error about a key that differs from the key of a job, but that the table treats as equal."""
    return RefusedError(
        f"{run.where} cannot store a job of {funcname} with unique key {uniqkey!r}: by its "
        f"collation job {jobid} has the same function and key. Convert the columns "
        "funcname and uniqkey to one that compares bytes, or use another key"
    )


def _insert(run: Statements, job: NewJob, rule: KeyRule) -> Inserted | None:
    """Insert a job whose key is free; return None if another transaction has inserted a job meanwhile."""
    rows = run.dialect.insert_keyed(run, insert_rows([job]))
    if not rows:
        return None
    jobid, created = rows[0][:2]
    if rule.open_for is not None:
        run(
            "note_key",
            funcname=job.funcname,
            uniqkey=job.uniqkey,
            jobid=jobid,
            ends=created + rule.open_for,
        )
    if rule.queues:
        # Successors may remain of a job that another program has deleted.
        run("forget_successors", funcname=job.funcname, uniqkey=job.uniqkey)
    return Inserted(jobid, run.dbid, created=created, incarnation=run.incarnation)


def _duplicate(run: Statements, job: NewJob, rule: KeyRule, row: _KeyedRow) -> Inserted:
    """Apply the rule to an insert whose key has a job. The transaction has locked the job's row."""
    if not rule.changes or row.state is State.DEAD or not row.state.known:
        return _existing(run, job, rule, row.jobid, row.state)
    most = rule.max_delay or DEBOUNCE_MAX_DELAY
    if row.never_handed_out:
        due = row.due(job)
        if rule.on_duplicate == "debounce":
            due = max(row.run_after, min(due, row.created + most))
        run(
            "replace_job",
            jobid=row.jobid,
            arg=job.arg,
            coalesce=job.coalesce,
            partition=job.partition,
            headers=job.headers,
            priority=PRIORITIES.index(job.priority),
            run_after=due,
            expires=job.expires or None,
        )
        return Inserted(row.jobid, run.dbid, new=False, state=row.state, replaced=True)
    if not rule.queues:
        return _existing(run, job, rule, row.jobid, row.state)
    delay = most if rule.on_duplicate == "debounce" else None
    successors.put(run, row.jobid, job, due=row.due(job), now=row.now, max_delay=delay)
    return Inserted(row.jobid, run.dbid, new=False, state=row.state, queued=True)


def old_keys(run: Statements) -> bool:
    """Return whether there are keys whose window has ended."""
    return bool(run("any_old_key"))


def forget_keys(run: Statements, limit: int) -> int:
    """Delete keys whose window has ended; return how many."""
    return int(run("forget_keys", limit=limit))


def _existing(run: Statements, job: NewJob, rule: KeyRule, jobid: int, state: State | None) -> Inserted:
    """Return the existing job, or raise the error about it. ``state``: the job's, if that is known."""
    if state is None:
        rows = run("states", jobids=[jobid])
        state = State(rows[0][1]) if rows else None
    found = Inserted(jobid, run.dbid, new=False, state=state)
    if rule.on_duplicate != "raise":
        return found
    error = DuplicateJobError(
        f"{run.where}: job {found.id} of {job.funcname} has the unique key {job.uniqkey!r:.100}"
    )
    error.existing = found
    raise error
