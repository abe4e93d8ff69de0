"""Lanes and claims: which jobs are due, and leasing them to a dispatcher."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

from garivini.model.job import Handle, Job
from garivini.model.lease import OTHERS_LEASE
from garivini.model.limits import PRIORITIES
from garivini.model.outcome import Setback, Settled
from garivini.model.pacing import BATCH_BYTES
from garivini.model.state import State
from garivini.store.chunks import CHUNK
from garivini.store.expiry import discard, split_late
from garivini.store.job_rows import call_of, from_due_rows
from garivini.store.statements import Statements

#: Maximum bytes of an argument that is read with its row: 1,000 such arguments are less than the maximum of a
#: claim.
SMALL: Final = 4096
#: Columns of a row of ``due``. If a lane can hold functions that differ in case, the function of the row
#: follows these columns.
_DUE_COLUMNS: Final = 13


class Lane(NamedTuple):
    """Jobs of one function, state and priority, in the order in which they are due."""

    funcname: str
    state: State
    priority: str
    #: Unix time at which its first job is due, or its first lease ends.
    due: int


class Dispatched(NamedTuple):
    """An attempt that was handed to Gearman and whose lease has not ended."""

    handle: Handle
    #: The unix time at which its lease ends.
    lease_end: int
    #: The id and the attempt of the first job of its bundle; None: it was handed out alone.
    bundle: tuple[int, int] | None = None

    @property
    def call(self) -> tuple[int, int]:
        """The id and the attempt by which Gearman servers know the call that carries it."""
        return self.bundle or (self.handle.jobid, self.handle.attempt or 0)


class Lanes(NamedTuple):
    """The lanes that hold jobs, the most urgent first, and the database's time at which they were read."""

    now: float
    lanes: list[Lane]
    #: Names of functions that are not text: their jobs cannot be dispatched.
    broken: frozenset[bytes] = frozenset()


def lanes(run: Statements) -> Lanes:
    """Return the lanes that hold jobs, without those of dead jobs."""
    rows = run.dialect.lanes(run)
    found, broken = [], set()
    for funcname, state, priority, due, _ in rows:
        name = funcname if type(funcname) is str else run.dialect.name_of(funcname)
        if isinstance(name, bytes):
            broken.add(name)
        else:
            found.append(Lane(name, State(state), PRIORITIES[priority], int(due)))
    return Lanes(rows[0][4] if rows else 0.0, found, frozenset(broken))


def broken_jobs(run: Statements, names: Collection[bytes]) -> list[Setback]:
    """Return setbacks that park the jobs whose function's name is not UTF-8 text, at most 1,000 per name."""
    setbacks = []
    for name in names:
        message = f"the name of its function is not UTF-8 text: {name!r:.500}"
        setbacks += [
            Setback(handle=Handle(jobid, run.dbid), kind="parked", error="BadRow", message=message)
            for (jobid,) in run("named", funcname=name, limit=CHUNK)
        ]
    return setbacks


def claim(
    run: Statements,
    lane: Lane,
    *,
    limit: int,
    lease: int | Callable[[str], int],
    max_bytes: int = BATCH_BYTES,
    expires: int | None = None,
    discarded: list[tuple[Setback, Settled]] | None = None,
) -> list[Job]:
    """Claim due jobs of a lane: raise their attempt and lease them, in one transaction.

    Args:
        run: runs the statements.
        lane: of state WAITING.
        limit: maximum number of jobs.
        lease: seconds, or a callable that returns them for a function.
        max_bytes: maximum bytes of arguments; one larger job is claimed alone.
        expires: the setting of the function. Jobs that have expired are discarded, and not claimed.
        discarded: gets the setbacks of the discarded jobs, and the result of each setback. It is empty after
            an error, because nothing was discarded.

    Returns:
        The jobs in the order in which they were due, with that time as ``run_after``. Each has the
        function name of its row: in a table of Garivini for Perl, its case may differ from the lane's. The
        field ``crashes`` is not read.

    """
    if discarded is not None:
        discarded.clear()
    rows = run(
        "due",
        funcname=lane.funcname,
        priority=PRIORITIES.index(lane.priority),
        limit=limit if type(limit) is not int else min(limit, CHUNK),
        small=SMALL,
    )
    rows, late = split_late(rows, expires)
    ended = discard(run, late) if late else []
    jobs = claim_rows(run, lane, rows, lease=lease, max_bytes=max_bytes)
    if discarded is not None:
        discarded += ended
    return jobs


def claim_rows(
    run: Statements,
    lane: Lane,
    rows: Sequence[Any],
    *,
    lease: int | Callable[[str], int],
    max_bytes: int,
) -> list[Job]:
    """Claim the jobs of rows that ``due`` or ``due_turns`` has read in this transaction; see ``claim``."""
    if not rows:
        return []
    rows, args = _fitting(run, rows, max_bytes)
    now = rows[0][8]
    parts = {lane.funcname: rows} if len(rows[0]) == _DUE_COLUMNS else _by_function(rows)
    jobs: list[Job] = []
    for funcname, part in parts.items():
        seconds = lease(funcname) if callable(lease) else lease
        run("claim", jobids=sorted([row[0] for row in part]), now=now, lease_end=now + seconds + 1)
        jobs += from_due_rows(part, args, run, funcname, lane.priority, seconds)
    if len(parts) > 1:
        jobs.sort(key=lambda job: (job.run_after, job.jobid))
    return jobs


def _by_function(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Group rows by their last column, the function; return them without this column."""
    parts: dict[str, list[Any]] = {}
    for *row, funcname in rows:
        parts.setdefault(funcname, []).append(row)
    return parts


def head(run: Statements, lane: Lane) -> int | None:
    """Return the id of the next job that a claim would take from a lane, or None."""
    rows = run("due", funcname=lane.funcname, priority=PRIORITIES.index(lane.priority), limit=1, small=SMALL)
    return rows[0][0] if rows else None


def _fitting(run: Statements, rows: Sequence[Any], max_bytes: int) -> tuple[Sequence[Any], dict[int, bytes]]:
    """Return the first rows, with at most these bytes of arguments, and the arguments that they lack."""
    large = sorted(row[0] for row in rows if row[2] is None)
    if not large:
        return _first(rows, [len(row[2]) for row in rows], max_bytes), {}
    sizes = dict(run("sizes", jobids=large))
    rows = _first(rows, [sizes[row[0]] if row[2] is None else len(row[2]) for row in rows], max_bytes)
    jobids = sorted(row[0] for row in rows if row[2] is None)
    return rows, dict(run("args", jobids=jobids)) if jobids else {}


def _first(rows: Sequence[Any], sizes: Sequence[int], maximum: int) -> Sequence[Any]:
    """Return the first rows, with at most this total size, but at least one."""
    if sum(sizes) <= maximum:  # nearly always
        return rows
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if number and total > maximum:
            return rows[:number]
    return rows


def dispatched(
    run: Statements, lane: Lane, *, age: int, since: int = 0, after: int = 0, limit: int = CHUNK
) -> list[Dispatched]:
    """Return attempts that were handed to Gearman and whose leases have not ended.

    Args:
        run: runs the statements.
        lane: of state LEASED.
        age: minimum seconds since the attempts were handed over.
        since: unix time after which the attempts were handed over.
        after: unix time at or after which their leases end. The result is in the order of these ends.
        limit: maximum number of attempts.

    """
    rows = run(
        "dispatched",
        funcname=lane.funcname,
        priority=PRIORITIES.index(lane.priority),
        age=age,
        since=since,
        after=after,
        limit=limit,
    )
    return [
        Dispatched(Handle(jobid, run.dbid, attempt), run_after, call_of(bundle, attempt))
        for jobid, attempt, run_after, bundle in rows
    ]


def leased(run: Statements, funcname: str, *, lease: int, limit: int) -> int:
    """Return the number of jobs of a function that are in Gearman and have not started, at most ``limit``.

    Args:
        run: runs the statements.
        funcname: the function.
        lease: seconds of the caller's leases. A row that was put off for longer is not counted.
        limit: where to stop counting.

    """
    return int(run("leased", funcname=funcname, lease=max(lease, OTHERS_LEASE), limit=limit)[0][0])
