"""Optional log lines for the start and the end of each job.

Functions are wrapped only if these lines are enabled. Otherwise, they cost nothing.
"""

import functools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from garivini import events
from garivini.model.job import Job
from garivini.worker.functions import Discard, Registered, Retry, check_result


@dataclass(frozen=True, slots=True)
class JobLog:
    """The log options of jobs.

    Args:
        level: the level of the lines for start and end; None: there are no such lines.
        tracebacks: whether a failure is logged with its traceback, at level ERROR.

    """

    level: int | None = None
    tracebacks: bool = False

    def wrap(self, entry: Registered) -> Registered:
        """Return a function that logs its jobs, or the same one if there is nothing to log."""
        if self.level is None and not self.tracebacks:
            return entry
        function = entry.function
        if entry.is_async:

            @functools.wraps(function)
            async def logged_async(job: Job) -> Any:
                with self._logged(job):
                    check_result(result := await function(job))
                return result

            return replace(entry, function=logged_async)

        @functools.wraps(function)
        def logged(job: Job) -> Any:
            with self._logged(job):
                check_result(result := function(job))
            return result

        return replace(entry, function=logged)

    @contextmanager
    def _logged(self, job: Job) -> Iterator[None]:
        fields: dict[str, Any] = {"function": job.funcname, "id": job.id, "attempt": job.attempt}
        if job.run_after:
            fields["wait"] = round(max(0.0, time.time() - job.run_after), 3)
        if self.level is not None:
            events.log("job.started", fields, self.level)
        began = time.monotonic()
        outcome = "succeeded"
        failed: BaseException | None = None
        try:
            yield
        except Retry:
            outcome = "retried"
            raise
        except Discard:
            outcome = "discarded"
            raise
        except BaseException as error:
            # The loop cancels a task at its time limit and at the end of a drain.
            outcome = "failed" if isinstance(error, Exception | SystemExit) else "cancelled"
            failed = error
            raise
        finally:
            fields |= {"run": round(time.monotonic() - began, 3), "outcome": outcome}
            if failed is not None:
                fields["error"] = f"{type(failed).__qualname__}: {failed}"
                events.log("job.ended", fields, logging.ERROR, failed if self.tracebacks else None)
            elif self.level is not None:
                events.log("job.ended", fields, self.level)


#: The log options of this process.
_chosen: Final = [JobLog()]


def choose(job_log: JobLog) -> None:
    """Log the jobs of the workers that this process starts from now on."""
    _chosen[:] = [job_log]


def wrap(entry: Registered) -> Registered:
    """Apply this process's log options to a function; return it unchanged if there is nothing to log."""
    return _chosen[0].wrap(entry)
