"""Claims of functions with rules about partitions: one job of each partition per round.

A claim examines a bounded number of partitions and rows, whatever the backlog. A partition without room is
passed over; its jobs are neither read nor written. If no partition that a claim has examined has room, the
next claim continues after them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from garivini.model.job import Job
from garivini.model.limits import PRIORITIES
from garivini.model.outcome import Setback, Settled
from garivini.model.policy import FunctionPolicy
from garivini.model.turns import Place, in_rounds, shares
from garivini.store.chunks import chunks
from garivini.store.claims import SMALL, Lane, claim_rows
from garivini.store.expiry import discard, split_late
from garivini.store.partition_rooms import PartitionRooms
from garivini.store.statements import Statements
from garivini.store.turns import Turns

#: Minimum and maximum partitions that are examined together, and the maximum that one claim examines.
_FEW: Final = 100
_MANY: Final = 1000
_ALL: Final = 2000
#: Maximum reads of jobs of the same partitions. One is not enough if some have fewer jobs than their share.
_TRIES: Final = 4
#: The number of the column of ``due_turns`` that has a job's partition.
_PARTITION: Final = 11

#: Claims the jobs of these rows, or of the first of them.
_Take: TypeAlias = Callable[[list[Sequence[Any]]], list[Job]]


class TurnClaim:
    """One claim of due jobs of a lane, in a transaction that has locked the row of its function.

    Args:
        run: runs the statements.
        lane: of state WAITING.
        policy: the rules of its function.
        place: the progress of the last admission of the lane.
        now: the database's unix time with its fraction.

    """

    def __init__(self, run: Statements, lane: Lane, policy: FunctionPolicy, place: Place, now: float) -> None:
        self._run = run
        self._lane = lane
        self._priority = PRIORITIES.index(lane.priority)
        self._turns = Turns(run, lane.funcname, self._priority)
        self._rooms = PartitionRooms(run, lane.funcname, policy, now)
        #: Where the next admission of the lane begins, once this one is committed.
        self.place: Place = place
        #: The setbacks of jobs that have expired, and the result of each setback.
        self.discarded: list[tuple[Setback, Settled]] = []
        self._expires: int | None = None
        self._claims = False
        self._now = now
        self._waits: list[float] = []
        self._jobs: list[Job] = []
        self._empty: list[str] = []
        self._locked: Counter[str] = Counter()
        self._truncated = False

    @property
    def held_back(self) -> float | None:
        """Seconds until a claim may get more jobs, 0 if they are not known; None: no jobs are held back."""
        return min(self._waits, default=None)

    def claim(
        self, *, limit: int, lease: int | Callable[[str], int], max_bytes: int, expires: int | None = None
    ) -> list[Job]:
        """Claim jobs, as ``claims.claim`` does, in the order of the turns. Called once."""
        self._expires, self._claims = expires, True

        def take(rows: list[Sequence[Any]]) -> list[Job]:
            left = max_bytes - sum(len(job.arg) for job in self._jobs)
            return claim_rows(self._run, self._lane, rows, lease=lease, max_bytes=left)

        last = self._serve_rounds(limit, take)
        if self._jobs and (len(self._jobs) >= limit or self._truncated):
            last = self._jobs[-1].partition or ""
        self.place = self.place._replace(partition=last)
        self._rooms.store()
        self._turns.forget_empty(self._empty)
        return self._jobs

    def next_job(self) -> int | None:
        """Return the id of the job that a claim of one job would take, or None."""
        found: list[int] = []

        def note(rows: list[Sequence[Any]]) -> list[Job]:
            found.extend(row[0] for row in rows)
            return []

        self._serve_rounds(1, note)
        return found[0] if found else None

    def _serve_rounds(self, limit: int, take: _Take) -> str | None:
        """Go through the partitions until there are enough jobs; return the last partition examined."""
        self.place, more = self._turns.gather(self.place, self._now)
        size = min(max(_FEW, limit), _MANY)
        last = self.place.partition
        walk = self._turns.partitions(last, size)
        examined, complete = 0, False
        while len(self._jobs) < limit and not (complete or self._truncated) and examined < _ALL:
            partitions = list(islice(walk, size))
            examined += len(partitions)
            complete = len(partitions) < size
            self._serve(partitions, limit, take, complete=complete)
            last = partitions[-1] if partitions else last
        if more or not complete:
            self._waits.append(0.0)
        return last

    def _serve(self, partitions: Sequence[str], limit: int, take: _Take, *, complete: bool) -> None:
        """Claim jobs of these partitions, up to ``limit`` in all.

        ``complete``: whether there are no other partitions. If there are, each of these gets at most one job.
        """
        self._rooms.read(partitions)
        left = list(partitions)
        for attempt in range(_TRIES):
            wanted = limit - len(self._jobs)
            rooms = {name: self._rooms.room(name) for name in left}
            if not complete:
                rooms = {name: min(room, 1) for name, room in rooms.items()}
            # After a try in which few partitions had jobs, more jobs of each are read, though some may be
            # read in vain.
            sizes = shares(rooms, wanted, wanted * 10**attempt)
            if not sizes or self._truncated:
                break
            more = self._take_shares(sizes, wanted, take)
            left = [name for name in left if name not in sizes] + (more if complete else [])
        else:
            self._waits.append(0.0)
        self._waits += [self._rooms.until_room(name) for name in partitions if self._rooms.room(name) <= 0]

    def _take_shares(self, sizes: Mapping[str, int], wanted: int, take: _Take) -> list[str]:
        """Claim jobs, at most these of each partition; return the partitions that may have more."""
        wide = {name: size + self._locked[name] for name, size in sizes.items()}
        beyond = self._turns.first({name: size + 1 for name, size in wide.items()})
        found = {name: jobids[: wide[name]] for name, jobids in beyond.items()}
        rows = self._due_rows(found)
        due = {
            name: [rows[jobid] for jobid in jobids if jobid in rows][: sizes[name]]
            for name, jobids in found.items()
        }
        chosen = in_rounds(due, wanted)
        jobs = take(chosen)
        self._truncated = len(jobs) < len(chosen)
        self._turns.forget([job.jobid for job in jobs])
        for job in jobs:
            self._rooms.use(job.partition or "", 1)
        self._jobs += jobs
        return [
            name
            for name, jobids in found.items()
            if self._found_stale(name, jobids, rows) or self._goes_on(name, beyond[name], jobids)
        ]

    def _goes_on(self, name: str, beyond: Sequence[int], jobids: Sequence[int]) -> bool:
        """Whether a partition has more turns than these."""
        if len(beyond) == len(jobids) and not self._locked[name]:
            self._empty.append(name)
        return len(beyond) > len(jobids)

    def _found_stale(self, name: str, jobids: Sequence[int], rows: Mapping[int, Any]) -> bool:
        """Count the locked ones of a partition's jobs; forget its stale turns; return whether it had any."""
        missing = [jobid for jobid in jobids if jobid not in rows]
        waiting = self._turns.waiting(missing) if missing else {}
        self._locked[name] = sum(waiting.get(jobid) == name for jobid in missing)
        if self._locked[name] == len(missing):
            return False
        self._turns.forget_stale(name)
        return True

    def _due_rows(self, found: Mapping[str, Sequence[int]]) -> dict[int, Sequence[Any]]:
        """Return the rows of the jobs that can be claimed, by id; they are locked."""
        partitions = {jobid: name for name, jobids in found.items() for jobid in jobids}
        rows: list[Sequence[Any]] = []
        for part in chunks(sorted(partitions)):
            rows += self._run("due_turns", jobids=part, priority=self._priority, small=SMALL)
        if self._claims:
            rows = self._without_late(rows)
        return {row[0]: row for row in rows if (row[_PARTITION] or "") == partitions[row[0]]}

    def _without_late(self, rows: list[Sequence[Any]]) -> list[Sequence[Any]]:
        """Discard the jobs that have expired; return the rows of the others."""
        kept, late = split_late(rows, self._expires)
        if late:
            self.discarded += discard(self._run, late)
            self._turns.forget([jobid for jobid, _ in late])
        return list(kept)
