"""Writes the reports of running jobs: progress, data and warnings."""

import threading
from collections.abc import Callable
from typing import Final

from garivini import events
from garivini.errors import ConflictError
from garivini.keeper.batch_writer import BATCH, BatchWriter
from garivini.keeper.inbox import Inbox
from garivini.keeper.recognition import Recognition
from garivini.keeper.wakeup import Wakeup
from garivini.model.job import Handle
from garivini.model.outcome import Report
from garivini.store.database import Database

#: Maximum reports that wait for a database. More are dropped: a job must not fill the memory.
_MAX_WAITING: Final = 20_000

#: Seconds between two reports of the progress of a job. The thread has a round at least as often.
_PROGRESS: Final = 1.0


class Reports:
    """Reports until they are written.

    Only reports of locked rows are deferred. Others that cannot be written are dropped, because reports must
    not delay outcomes.

    Args:
        database: stores them.
        writer: writes to it.
        recognition: decides which rows still belong to their jobs.
        wakeup: wakes the keeper's thread.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        database: Database,
        writer: BatchWriter,
        recognition: Recognition,
        wakeup: Wakeup,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._writer = writer
        self._recognition = recognition
        self._wakeup = wakeup
        self._monotonic = monotonic
        self._inbox: Inbox[Report] = Inbox()
        #: The latest progress of running jobs that is not in the inbox yet, and when it is moved there.
        self._progress: dict[Handle, Report] = {}
        self._progress_due = 0.0  # monotonic
        self._lock = threading.Lock()

    def add(self, report: Report) -> None:
        """Write a report soon, or drop it if too many wait."""
        if len(self._inbox) + self._inbox.deferred < _MAX_WAITING:
            self._inbox.put(report)
            self._wakeup.set()
        else:
            events.emit("reports.dropped", dbid=report.handle.dbid, reports=1, error="too many wait")

    def set_progress(self, report: Report) -> None:
        """Write the progress of a job within about a second, unless the job reports later progress first."""
        with self._lock:
            self._progress[report.handle] = report

    def _collect_progress(self, now: float) -> None:
        """Move progress to the inbox: that of ended jobs immediately, and all of it once per second."""
        with self._lock:
            everything = now >= self._progress_due
            due = [it for it in self._progress.values() if everything or it.job is None or not it.job.calls]
            for report in due:
                self._inbox.put(report)
                del self._progress[report.handle]
            if everything:
                self._progress_due = now + _PROGRESS

    def step(self) -> None:
        """Write all reports that wait."""
        now = self._monotonic()
        if self._progress:
            self._collect_progress(now)
        while batch := self._inbox.take_batch(now, BATCH):
            try:
                failed = self._writer.write(batch, self._write, lambda report: report.handle.jobid)
            except Exception:
                self._inbox.put_back(batch)
                raise
            dropped = self._inbox.close_batch(
                batch, failed, now, is_final=lambda error: not isinstance(error, ConflictError)
            )
            if dropped:
                (_, error), *_ = dropped
                dbid = self._database.dbid
                events.emit("reports.dropped", dbid=dbid, reports=len(dropped), error=str(error))

    def _write(self, reports: list[Report], locked: set[int] | None) -> None:
        unrecognised = self._recognition.unrecognised(
            report.job for report in reports if report.job is not None
        )
        known = [report for report in reports if id(report.job) not in unrecognised]
        self._database.report(known, locked=locked)

    def next_due(self) -> float:
        """Return when the first deferred report is due."""
        return self._inbox.next_due()
