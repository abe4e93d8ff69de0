"""The job that runs here: for code deep inside a function, and for log records. No I/O."""

import logging
from contextvars import ContextVar
from typing import Final

from garivini.model.job import Job

_running: Final[ContextVar[Job | None]] = ContextVar("garivini_job", default=None)

#: Called by a worker where a job starts, with the job, and where it has ended, with None.
set_current_job: Final = _running.set


def current_job() -> Job | None:
    """Return the job that the calling code runs for, None outside of a function of a worker.

    Known in the function, in what it calls and awaits, in tasks that it creates, in ``asyncio.to_thread``,
    and in threads that run in a copy of its context (``contextvars.copy_context().run``).
    """
    return _running.get()


class JobFilter(logging.Filter):
    """Gives each log record the job that it was logged in. It lets all records pass.

    A record gets ``job_id`` (``1:42``), ``job_function`` and ``job_attempt``; outside of a job they are None.
    Add it to a handler: ``handler.addFilter(garivini.JobFilter())``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the job to a record."""
        job = _running.get()
        if job is None:
            record.job_id = record.job_function = record.job_attempt = None
        else:
            record.job_id, record.job_function, record.job_attempt = job.id, job.funcname, job.attempt
        return True
