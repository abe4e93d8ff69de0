"""The rows of ``turn``: the due jobs of functions with rules about partitions, by partition.

A job gets such a row when an admission reads the job in its lane, and loses the row when the job is handed
out. Programs that change a job do not change its row, so that may be out of date. Therefore an admission
takes it as a hint and checks the job itself, so that only due jobs are handed out. Setting a rule rewrites no
rows.

Each admission reads two pages of the lane to find jobs without a turn. One page is of the *front*: the jobs
that have become due in the last seconds, so that a new job waits behind no backlog. The other is of the
*sweep*, which reads the whole lane again and again, because a job can come back to any place of its lane.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from garivini.model.turns import Place, Position
from garivini.store.statements import Statements

#: Jobs of a page.
PAGE: Final = 500
#: Maximum seconds that a transaction may take to insert a job that the front is to find.
LAG: Final = 5
#: Minimum seconds from the start of a sweep to the start of the next.
SWEEP_AGE: Final = 2.0
#: Partitions whose turns one statement reads. SQLite joins at most 500 parts.
_PARTS: Final = 100
#: The smallest text that is not empty. No other text is between a text and the same text with this appended.
_LEAST: Final = "\1"


class Turns:
    """The turns of a lane, in a transaction that has locked the function's row."""

    def __init__(self, run: Statements, funcname: str, priority: int) -> None:
        self._run = run
        self._lane: Mapping[str, Any] = {"funcname": funcname, "priority": priority}

    # ---- finding jobs

    def gather(self, place: Place, now: float) -> tuple[Place, bool]:
        """Give turns to jobs of the lane that have none; return the next place, and whether more may follow.

        ``now``: the unix time.
        """
        sweep, swept, front = place.sweep, place.swept, place.front
        if sweep is None and not 0 <= now - swept < SWEEP_AGE:
            sweep = Position()
        if sweep is not None:
            if sweep == Position():
                swept = now
            whole = sweep == Position()
            sweep = self._read_page(sweep)
            if whole and sweep is None:  # that was the whole lane
                return place._replace(sweep=None, swept=swept, front=None), False
        front = self._read_page(front or Position(max(0, int(now) - LAG)))
        more = sweep is not None or front is not None
        return place._replace(sweep=sweep, swept=swept, front=front), more

    def _read_page(self, after: Position) -> Position | None:
        """Give turns to the next jobs of the lane; return where to read on, None at its end."""
        page = self._run(
            "lane_page", **self._lane, after=after.run_after, after_jobid=after.jobid, limit=PAGE
        )
        if missing := sorted(jobid for jobid, _, has_turn in page if not has_turn):
            self._run("add_turns", jobids=missing, **self._lane)
            self._run("add_turn_partitions", jobids=missing, **self._lane)
        if len(page) < PAGE:
            return None
        jobid, run_after, _ = page[-1]
        # Jobs with a later due time than the page's first are not read in the order of ids, so those with the
        # last due time are read again.
        return Position(run_after, jobid if run_after == after.run_after else 0)

    # ---- partitions

    def partitions(self, after: str | None, page: int) -> Iterator[str]:
        """Yield each partition that may have due jobs, in order, from the one after ``after`` around to it.

        ``page``: how many are read together.
        """
        yield from self._from("" if after is None else after + _LEAST, page)
        if after is not None:
            for partition in self._from("", page):
                if partition > after:
                    return
                yield partition

    def _from(self, start: str, page: int) -> Iterator[str]:
        while True:
            found = self._run("turn_partitions", **self._lane, start=start, limit=page)
            yield from (partition for (partition,) in found)
            if len(found) < page:
                return
            start = found[-1][0] + _LEAST

    # ---- jobs

    def first(self, sizes: Mapping[str, int]) -> dict[str, list[int]]:
        """Return the ids of the first jobs of each of these partitions, at most this many."""
        found: dict[str, list[tuple[int, int]]] = {partition: [] for partition in sizes}
        names = iter(sizes)
        while part := list(islice(names, _PARTS)):
            rows = [{**self._lane, "partition": name, "limit": sizes[name]} for name in part]
            for jobid, partition, run_after in self._run("next_turns", rows=rows):
                found[partition].append((run_after, jobid))
        return {name: [jobid for _, jobid in sorted(turns)] for name, turns in found.items()}

    def forget(self, jobids: Sequence[int]) -> None:
        """Delete the turns of these jobs."""
        if jobids:
            self._run("forget_turns", jobids=sorted(jobids))

    def waiting(self, jobids: Sequence[int]) -> dict[int, str]:
        """Return those of the jobs that are due, locked or not, with the partition of each."""
        return dict(self._run("waiting_turns", jobids=sorted(jobids), priority=self._lane["priority"]))

    def forget_stale(self, partition: str) -> None:
        """Delete those of the first turns of a partition whose jobs are not due in this lane."""
        rows = self._run("partition_turns", **self._lane, partition=partition, limit=PAGE)
        jobids = [jobid for (jobid,) in rows]
        waiting = self.waiting(jobids) if jobids else {}
        self.forget([jobid for jobid in jobids if waiting.get(jobid) != partition])

    def forget_empty(self, partitions: Sequence[str]) -> None:
        """Forget those of the partitions that have no turns."""
        found = self.first(dict.fromkeys(partitions, 1)) if partitions else {}
        if empty := sorted(partition for partition, jobids in found.items() if not jobids):
            self._run("forget_turn_partitions", **self._lane, partitions=empty)
