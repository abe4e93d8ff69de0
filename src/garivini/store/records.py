"""What jobs said while they ran, and the finished ones that are kept. Blocking; safe for threads."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from garivini.model.limits import MAX_ARG
from garivini.model.outcome import Report, Success
from garivini.model.records import KeptJob, Reported
from garivini.store.chunks import CHUNK, by_attempt, chunks
from garivini.store.connections import Connections, Run, again
from garivini.store.values import check_values

#: Lines of one attempt that are kept: the first ones.
MAX_LINES: Final = 1000
#: Bytes of a line that are kept.
MAX_LINE: Final = 64 * 1024
#: Ids from the first to the last, for which one look at all of them is less than a look for each. What is
#: deleted among them is in the way until the database has swept it up, and in a wide range that may be much.
_NEAR: Final = 10_000
#: Bytes of a result that are kept; a larger one is left out.
MAX_RESULT: Final = MAX_ARG


#: Alias of ``KeptJob``.
Finished: TypeAlias = KeptJob


class _Missing(Exception):
    """Of the jobs to delete some are gone: ends the transaction without a trace."""


class Records(Connections):
    """Records the ends of jobs that succeeded, and keeps their results.

    A method with ``locked`` does not wait for rows that another transaction has locked: it skips them and
    adds their ids to ``locked``. If anything else is locked, it raises a ``ConflictError`` at once.
    """

    @again
    def report(self, reports: Sequence[Report], *, locked: set[int] | None = None) -> None:
        """Keep what running jobs said, in one transaction.

        A status takes the place of the attempt's last one. Of lines the first ``MAX_LINES`` of an attempt are
        kept, each cut to ``MAX_LINE`` bytes. What an attempt says that does not hold its job is passed over.
        """
        with self.transaction() as run:
            passed = pass_over(run, (report.handle.jobid for report in reports), locked)
            self._report(run, [report for report in reports if report.handle.jobid not in passed])

    def _report(self, run: Run, reports: Sequence[Report]) -> None:
        held: set[tuple[int, int | None]] = set()
        for number, jobids in by_attempt({report.handle for report in reports}):
            # Locked, so that no job ends in between and two who report do not take the same number.
            held.update((jobid, number) for (jobid,) in run("held", jobids=jobids, attempt=number))
        statuses = {}
        for (jobid, _, attempt), kind, body in reports:
            if (jobid, attempt) not in held:
                continue
            if kind == "status":
                statuses[jobid, attempt] = body
            else:
                run(
                    "add_line",
                    jobid=jobid,
                    attempt=attempt,
                    kind=kind,
                    body=body[:MAX_LINE],
                    most=MAX_LINES,
                )
        for (jobid, attempt), body in statuses.items():
            run("set_status", jobid=jobid, attempt=attempt, body=body[:MAX_LINE])

    @again
    def complete(self, jobids: Collection[int], *, locked: set[int] | None = None) -> set[int]:
        """Delete finished jobs, their record and reports; return the ids that were there."""
        check_values({"jobids": jobids})
        return self._finish(sorted(set(jobids)), {}, locked)

    @again
    def finish(self, finishes: Sequence[Success], *, locked: set[int] | None = None) -> set[int]:
        """Delete finished jobs as ``complete`` does, but keep those with a retention; return as it does.

        A result that is too large for the database is left out; the job has finished all the same.
        """
        kept = {finish.jobid: finish for finish in finishes if finish.retention}
        return self._finish(sorted({finish.jobid for finish in finishes}), kept, locked)

    def _finish(
        self, jobids: list[int], kept: Mapping[int, Success], locked: set[int] | None, *, look: bool = False
    ) -> set[int]:
        """Delete jobs in one transaction; return the ids that were there.

        ``look``: see first which are there. To read them costs more than to delete them, and nearly always
        all are: so that is done only where their count was wrong.
        """
        if locked is not None:
            return self._finish_free(jobids, kept, locked)
        gone: set[int] = set()
        try:
            with self.transaction() as run:
                for part in chunks(jobids):
                    there = [jobid for (jobid,) in run("present", jobids=part)] if look else part
                    if not there:
                        continue
                    keep = [jobid for jobid in there if jobid in kept] if kept else []
                    for jobid, attempt, *_ in run("standing", jobids=keep) if keep else ():
                        self._keep(run, kept[jobid], attempt)
                    if _delete(run, there) != len(there):
                        raise _Missing
                    self._forget(run, there, keep)
                    gone.update(there)
        except _Missing:
            return self._finish(jobids, kept, locked, look=True)
        return gone

    def _finish_free(self, jobids: list[int], kept: Mapping[int, Success], locked: set[int]) -> set[int]:
        """Do the same, one by one, with rows that no other transaction has locked.

        A list of ids may be searched by a scan, which waits for rows that are not in it.
        """
        gone: set[int] = set()
        with self.transaction() as run:
            passed = pass_over(run, jobids, locked)
            for jobid in jobids:
                if jobid in passed:
                    continue
                for _, attempt, *_ in run("standing", jobids=[jobid]) if jobid in kept else ():
                    self._keep(run, kept[jobid], attempt)
                if run("complete_one", jobid=jobid):
                    gone.add(jobid)
            for part in chunks(sorted(gone)):
                self._forget(run, part, kept)
        return gone

    def _forget(self, run: Run, jobids: Sequence[int], kept: Collection[int] = ()) -> None:
        """Delete the record and the reports of jobs that are gone."""
        first, last = min(jobids), max(jobids)
        if last - first < _NEAR and not run("any_records", first=first, last=last)[0][0]:
            return
        with_records = sorted(jobid for (jobid,) in run("with_records", jobids=jobids) if jobid not in kept)
        if with_records:
            run("forget_failures", jobids=with_records)
            run("forget_reports", jobids=with_records)

    def _keep(self, run: Run, finish: Success, attempt: int) -> None:
        attempt = attempt if finish.attempt is None else finish.attempt
        size, most = len(finish.result), min(MAX_RESULT, self._dialect.statement_bytes)
        run(
            "keep",
            jobid=finish.jobid,
            attempt=attempt,
            worker=storable(finish.worker)[:255],
            result=finish.result if size <= most else None,
            retention=finish.retention,
        )
        if size > most:
            said = f"the result of {size} bytes was left out: {self.where} takes at most {most}"
            if most < MAX_RESULT:
                said += f", by its {self._dialect.statement_setting}"
            # Behind the last line, so that there is always room for it.
            run(
                "add_line",
                jobid=finish.jobid,
                attempt=attempt,
                kind="warning",
                body=said.encode(),
                most=MAX_LINES + 1,
            )

    # ---- for people

    @again
    def reports(self, jobid: int) -> list[Reported]:
        """Return what a job said, oldest attempt first; of each its last status, then the lines."""
        with self.reading() as run:
            return [Reported(*row) for row in run("reports", jobid=jobid)]

    @again
    def finished(self, jobid: int) -> KeptJob | None:
        """Return a finished job that is kept, or None."""
        with self.reading() as run:
            rows = run("finished", jobid=jobid)
        return KeptJob(*rows[0]) if rows else None

    @again
    def forget_finished(self, limit: int = CHUNK) -> int:
        """Delete finished jobs whose time is over, their records and reports; return how many.

        Where there are none it costs one statement.
        """
        with self.reading() as run:
            jobids = sorted(jobid for (jobid,) in run("outlived", limit=min(limit, CHUNK)))
        if jobids:
            with self.transaction() as run:
                for name in ("forget_failures", "forget_reports", "forget_finished"):
                    run(name, jobids=jobids)
        return len(jobids)


def pass_over(run: Run, jobids: Iterable[int], locked: set[int] | None) -> Collection[int]:
    """Lock rows; return the ids of those that another transaction has locked, also added to ``locked``.

    If ``locked`` is None, nothing is done, and no row is skipped.
    """
    if locked is None:
        return ()
    locked.clear()  # of an earlier try
    for part in chunks(sorted(set(jobids))):
        free = {jobid for (jobid,) in run("lockable", jobids=part)}
        if missing := [jobid for jobid in part if jobid not in free]:
            locked.update(jobid for (jobid,) in run("known", jobids=missing))
    # Not before: MariaDB 10.11 fails if it skips a row while it may not wait.
    run.hurry()
    return locked


def _delete(run: Run, jobids: Sequence[int]) -> int:
    """Delete the rows of these ids, which are sorted; return how many there were."""
    first, last = jobids[0], jobids[-1]
    if last - first == len(jobids) - 1:
        return int(run("complete_run", first=first, last=last))
    return int(run("complete", jobids=jobids))


def storable(text: str) -> str:
    """Return a text as any database takes it: it may hold NUL or halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
