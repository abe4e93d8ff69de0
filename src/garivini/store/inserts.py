"""Inserting jobs, with and without a unique key."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from garivini.errors import ConflictError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.pacing import BATCH_BYTES
from garivini.model.state import State
from garivini.store.chunks import CHUNK, chunks
from garivini.store.dialects.dialect import Dialect
from garivini.store.job_rows import insert_rows
from garivini.store.rows import readable
from garivini.store.statements import Statements
from garivini.store.unique_inserts import folded_key, insert_ruled

#: Maximum tries to insert a job if, in each of them, the key's existing job ends between two statements.
_TRIES: Final = 6
_EXPIRES: Final = attrgetter("expires")


def fits_one_statement(jobs: Sequence[NewJob], sizes: Sequence[int], dialect: Dialect) -> bool:
    """Whether one statement stores these jobs, so that it can be a transaction by itself."""
    if len(jobs) == 1:
        return jobs[0].rule is None and not jobs[0].expires
    if len(jobs) > min(CHUNK, dialect.single_rows) or any(job.uniqkey is not None for job in jobs):
        return False
    if any(map(_EXPIRES, jobs)):
        return False
    return sum(sizes) <= min(BATCH_BYTES, dialect.statement_bytes)


def unusual_texts(jobs: Sequence[NewJob]) -> set[str]:
    """Return the texts of jobs that some character sets cannot represent."""
    texts = {
        text for job in jobs for text in (job.funcname, job.uniqkey, job.coalesce, job.partition) if text
    }
    return {text for text in texts if not text.isascii()}


def insert(run: Statements, jobs: Sequence[NewJob], sizes: Sequence[int]) -> list[Inserted]:
    """Insert jobs with arguments of these sizes; return one answer each, in order."""
    bound = run.dialect.statement_bytes
    _check_sizes(run, jobs, sizes, bound)
    answers: list[Inserted | None] = [None] * len(jobs)
    unkeyed = [index for index, job in enumerate(jobs) if job.uniqkey is None]
    for part in chunks(unkeyed, sizes, bound):
        stored = run.dialect.insert(run, insert_rows([jobs[index] for index in part]))
        for index, (jobid, created) in zip(part, stored, strict=True):
            answers[index] = Inserted(jobid, run.dbid, created=created, incarnation=run.incarnation)
    if len(unkeyed) < len(jobs):
        # In the order of the keys, so that two inserts of the same keys do not deadlock.
        keyed = sorted(
            (index for index, job in enumerate(jobs) if job.uniqkey is not None),
            key=lambda index: (jobs[index].funcname, jobs[index].uniqkey),
        )
        plain = [index for index in keyed if jobs[index].rule is None]
        for part in chunks(plain, sizes, bound):
            _insert_keyed(run, jobs, part, answers)
        if len(plain) < len(keyed):
            _insert_ruled(run, jobs, keyed, answers)
    if any(map(_EXPIRES, jobs)):
        _set_expires(run, jobs, answers)
    return [answer for answer in answers if answer is not None]


def _insert_ruled(
    run: Statements, jobs: Sequence[NewJob], keyed: Sequence[int], answers: list[Inserted | None]
) -> None:
    """Insert the jobs among these whose keys have rules, one by one; set their answers."""
    for index in keyed:
        rule = jobs[index].rule
        if rule is not None:
            answers[index] = insert_ruled(run, jobs[index], rule)


def _set_expires(run: Statements, jobs: Sequence[NewJob], answers: Sequence[Inserted | None]) -> None:
    """Store how long new jobs may wait before they expire, if they have such a time of their own."""
    found: dict[int, list[int]] = {}
    for job, at in zip(jobs, answers, strict=True):
        if job.expires and at is not None and at.new:
            found.setdefault(job.expires, []).append(at.jobid)
    for expires, jobids in sorted(found.items()):
        for part in chunks(sorted(jobids)):
            run("set_expires", jobids=part, expires=expires)


def _check_sizes(run: Statements, jobs: Sequence[NewJob], sizes: Sequence[int], bound: int) -> None:
    size = max(sizes, default=0)
    if size > bound:
        raise UsageError(
            f"{run.where} takes arguments of at most {bound} bytes, by its "
            f"{run.dialect.statement_setting}; one for {jobs[sizes.index(size)].funcname} has {size}: "
            "raise that, or store it elsewhere"
        )


def _insert_keyed(
    run: Statements, jobs: Sequence[NewJob], part: list[int], answers: list[Inserted | None]
) -> None:
    """Insert jobs with unique keys; set their answers."""
    for _ in range(_TRIES):
        part = _try_keyed(run, jobs, part, answers)
        if not part:
            return
    raise ConflictError(f"{run.where}: jobs of a unique key came and went; try again")


def _try_keyed(
    run: Statements, jobs: Sequence[NewJob], part: list[int], answers: list[Inserted | None]
) -> list[int]:
    """Insert jobs with unique keys; return those not inserted although no job has their key."""
    rows = run.dialect.insert_keyed(run, insert_rows([jobs[index] for index in part]))
    new = {
        # A caller's connection may return texts as bytes.
        (readable(funcname), readable(uniqkey)): (jobid, created)
        for jobid, created, funcname, uniqkey in rows
    }
    gone: list[int] = []
    known: dict[tuple[str, str | None], int] = {}
    found: dict[int, int] = {}
    for index in part:
        key = (jobs[index].funcname, jobs[index].uniqkey)
        if key in new:
            jobid, created = new.pop(key)
            known[key] = jobid
            answers[index] = Inserted(jobid, run.dbid, created=created, incarnation=run.incarnation)
            continue
        if key not in known:
            live_job = _find_live(run, *key)
            if live_job is None:
                gone.append(index)
                continue
            known[key] = live_job
        found[index] = known[key]
    states = _states(run, found.values())
    for index, jobid in found.items():
        answers[index] = Inserted(jobid, run.dbid, new=False, state=states.get(jobid))
    return gone


def _find_live(run: Statements, funcname: str, uniqkey: str | None) -> int | None:
    """Return the job that has a key, None if there is none."""
    rows = run("live", funcname=funcname, uniqkey=uniqkey)
    if not rows:
        return None
    if not _is_exact(rows[0]):
        raise folded_key(run, funcname, uniqkey, rows[0][0])
    return int(rows[0][0])


def live(run: Statements, funcname: str, uniqkey: str, *, exact: bool = True) -> Inserted | None:
    """Return the job that has a key, in the form of an insert's answer, or None.

    Args:
        run: runs the statements.
        funcname: the function.
        uniqkey: the key.
        exact: whether to omit a job whose key is equal only by the collation of a table of the original.

    """
    rows = run("live", funcname=funcname, uniqkey=uniqkey)
    if not rows or (exact and not _is_exact(rows[0])):
        return None
    jobid = rows[0][0]
    return Inserted(jobid, run.dbid, new=False, state=_states(run, [jobid]).get(jobid))


def _states(run: Statements, jobids: Iterable[int]) -> dict[int, State]:
    """Return the effective states of jobs."""
    wanted = sorted(set(jobids))
    return {jobid: State(state) for jobid, state in (run("states", jobids=wanted) if wanted else ())}


def _is_exact(live: Sequence[Any]) -> bool:
    """Whether function and key of an existing job are equal in their bytes to those asked for."""
    return len(live) == 1 or bool(live[1])
