"""Claims of functions with ``coalesce_max``: due jobs with the same ``coalesce`` value go together.

A claim reads the keys of at most the first 10,000 due jobs of its lane, and forms the bundles from these.
Nothing is stored for a job that waits for others, so any program may change its row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import force_setattr

from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.limits import PRIORITIES
from garivini.model.outcome import Setback, Settled
from garivini.model.policy import FunctionPolicy
from garivini.store.chunks import CHUNK
from garivini.store.claims import SMALL, Lane, claim_rows
from garivini.store.expiry import discard, split_late
from garivini.store.rows import Undecodable
from garivini.store.statements import Statements

#: Jobs of a page, and maximum pages that a claim reads.
_PAGE: Final = 1000
_PAGES: Final = 10
#: Maximum seconds until the next claim if bundles are not full: others may become full meanwhile.
_RECHECK: Final = 0.25
#: The number of the column of ``due_turns`` that has a job's attempt.
_ATTEMPT: Final = 7


class _Group(NamedTuple):
    """Due jobs with the same value, in the order of their due times."""

    #: The unix time at which the first of them was due.
    due: int
    jobids: list[int]


class BundleClaim:
    """One claim of due jobs of a lane, in a transaction that has locked the row of its function.

    Args:
        run: runs the statements.
        lane: of state WAITING.
        policy: the rules of its function; it has ``coalesce_max``.
        now: the database's unix time with its fraction.

    """

    def __init__(self, run: Statements, lane: Lane, policy: FunctionPolicy, now: float) -> None:
        self._run = run
        self._lane = lane
        self._priority = PRIORITIES.index(lane.priority)
        self._size = policy.coalesce_max or 1
        self._wait = policy.coalesce_wait or 0
        self._now = now
        #: Seconds until a claim may get more calls, 0 if it may at once; None: no due job is left.
        self.held_back: float | None = None
        #: The setbacks of jobs that have expired, and the result of each setback.
        self.discarded: list[tuple[Setback, Settled]] = []

    def claim(
        self, *, limit: int, lease: int | Callable[[str], int], max_bytes: int, expires: int | None = None
    ) -> list[Job]:
        """Claim the jobs of at most ``limit`` calls, as ``claims.claim`` does; return the first job of each.

        At most 1,000 jobs are claimed.
        """
        ready, waits = self._groups(limit)
        chosen: list[list[int]] = []
        left = CHUNK
        for group in ready[:limit]:
            if len(group.jobids) > left:
                break
            chosen.append(group.jobids)
            left -= len(group.jobids)
        if len(chosen) < len(ready):
            self.held_back = 0.0
        elif waits:
            self.held_back = min(_RECHECK, *waits)
        return self._claim_groups(chosen, lease, max_bytes, expires) if chosen else []

    def next_job(self) -> int | None:
        """Return the id of the job because of which the next call cannot be claimed, or None.

        If no row of the call shows it, this is the job with the highest attempt, which may not be raised.
        """
        ready, _ = self._groups(1)
        attempts: list[tuple[int, int]] = []
        for jobid in ready[0].jobids if ready else ():
            try:
                rows = self._read_rows([jobid])
            except UsageError:
                return jobid
            attempts += [(row[_ATTEMPT], jobid) for row in rows]
        return max(attempts, default=(0, None))[1]

    # ---- which jobs go together

    def _groups(self, enough: int) -> tuple[list[_Group], list[float]]:
        """Return the jobs of each call that may be made now, and the seconds that other jobs still wait.

        No more pages are read once there are ``enough`` calls that cannot get more jobs.
        """
        ready: list[_Group] = []
        filling: dict[object, _Group] = {}
        for jobid, due, key in self._keys(lambda: len(ready) >= enough):
            if key is None:
                ready.append(_Group(due, [jobid]))
                continue
            group = filling.setdefault(key, _Group(due, []))
            group.jobids.append(jobid)
            if len(group.jobids) == self._size:
                ready.append(filling.pop(key))
        waits = []
        for group in filling.values():
            wait = group.due + self._wait - self._now
            if wait > 0:
                waits.append(wait)
            else:
                ready.append(group)
        return sorted(ready), waits

    def _keys(self, ends: Callable[[], bool]) -> Iterator[tuple[int, int, object]]:
        """Yield id, due time and key of due jobs, in order, until ``ends`` returns True after a page.

        Jobs with the same key go together; a job whose key is None goes alone.
        """
        seen: set[int] = set()
        for page in range(_PAGES):
            rows = self._run(
                "bundle_page",
                funcname=self._lane.funcname,
                priority=self._priority,
                limit=_PAGE,
                skip=page * _PAGE,
            )
            for jobid, due, value, flag, failcount, crashes in rows:
                if jobid not in seen:  # jobs with the same due time have no order between two pages
                    seen.add(jobid)
                    # A job that has failed goes alone, so that it does not make other jobs fail again.
                    # A Controller gets jobs one by one.
                    alone = not value or flag != "shim" or failcount or crashes or type(value) is Undecodable
                    yield jobid, due, None if alone else value
            if len(rows) < _PAGE or ends():
                return

    # ---- claiming

    def _claim_groups(
        self,
        groups: Sequence[Sequence[int]],
        lease: int | Callable[[str], int],
        max_bytes: int,
        expires: int | None,
    ) -> list[Job]:
        rows = {row[0]: row for row in self._read_rows(sorted(jobid for ids in groups for jobid in ids))}
        kept, late = split_late([rows[jobid] for ids in groups for jobid in ids if jobid in rows], expires)
        if late:
            self.discarded += discard(self._run, late)
        jobs = claim_rows(self._run, self._lane, list(kept), lease=lease, max_bytes=max_bytes)
        if len(jobs) < len(kept):
            self.held_back = 0.0
        claimed = {job.jobid: job for job in jobs}
        calls = []
        for ids in groups:
            found = [claimed[jobid] for jobid in ids if jobid in claimed]
            if len(found) > 1:
                first = found[0]
                call = f"{first.jobid}/{first.attempt}"
                self._run("mark_bundle", jobids=sorted(job.jobid for job in found), call=call)
                force_setattr(first, "members", tuple(found[1:]))
            calls += found[:1]
        return calls

    def _read_rows(self, jobids: list[int]) -> list[Sequence[Any]]:
        """Return the rows of the jobs among these that can be claimed; they are locked."""
        return list(self._run("due_turns", jobids=jobids, priority=self._priority, small=SMALL))
