"""Reports of the running calls of a Controller, on their way to the keepers."""

from collections.abc import Callable

from garivini.gearman.packets import Type
from garivini.model.outcome import Report, ReportKind
from garivini.roles.calls import Call
from garivini.store.records import LATER_LINES, MAX_LINES


class CallReports:
    """Passes on the lines of a call immediately, up to a limit, and its latest progress about every second.

    Args:
        send: passes a report to the keeper of its database.

    """

    def __init__(self, send: Callable[[Report], None]) -> None:
        self._send = send
        #: The latest progress that was not passed on yet, by database and job.
        self.progress: dict[tuple[int, int], Report] = {}

    def add(self, call: Call, kind: Type, fields: list[bytes]) -> None:
        """Add a WORK_STATUS, WORK_DATA or WORK_WARNING of a call."""
        job = call.execution.job
        if kind is Type.WORK_STATUS:
            self.progress[job.dbid, job.jobid] = Report(job.handle, "status", b"/".join(fields), job)
            return
        call.lines += 1
        if call.lines < MAX_LINES:
            line: ReportKind = "data" if kind is Type.WORK_DATA else "warning"
            self._send(Report(job.handle, line, fields[0], job))
        elif call.lines == MAX_LINES:
            self._send(Report(job.handle, "warning", LATER_LINES, job))

    def flush(self) -> None:
        """Pass on the latest progress of all calls."""
        for report in self.progress.values():
            self._send(report)
        self.progress.clear()

    def end(self, call: Call) -> None:
        """Pass on the latest progress of a call that ends."""
        job = call.execution.job
        report = self.progress.pop((job.dbid, job.jobid), None)
        if report is not None:
            self._send(report)
