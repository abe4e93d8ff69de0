"""The job for which the calling code runs, for code inside of a function and for log records. No I/O."""

import logging
from contextvars import ContextVar
from typing import Final

from garivini.model.job import Job

_running: Final[ContextVar[Job | None]] = ContextVar("garivini_job", default=None)

#: Sets the current job. Workers call it with the job at its start, and with None after its end.
set_current_job: Final = _running.set


def current_job() -> Job | None:
    """Return the job for which the calling code runs, and None outside of a function of a worker.

    The job is known in the function, in code that the function calls or awaits, in its tasks, in
    ``asyncio.to_thread``, and in threads that run in a copy of its context
    (``contextvars.copy_context().run``).
    """
    return _running.get()


class JobFilter(logging.Filter):
    """A filter that adds the current job to each log record. It accepts all records.

    A record gets ``job_id`` (``1:42``), ``job_function`` and ``job_attempt``; outside of a job they are None.
    Add it to a handler: ``handler.addFilter(garivini.JobFilter())``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the current job to a record; return True."""
        job = _running.get()
        if job is None:
            record.job_id = record.job_function = record.job_attempt = None
        else:
            record.job_id, record.job_function, record.job_attempt = job.id, job.funcname, job.attempt
        return True
