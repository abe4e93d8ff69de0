"""The setback of a function that raised an exception."""

from garivini.model.job import Handle
from garivini.model.outcome import Setback, failure
from garivini.model.when import Offset
from garivini.worker.functions import Discard, Retry


def setback_of(handle: Handle, error: BaseException, worker: str) -> Setback:
    """Return the setback of a job whose function raised ``error``; ``worker``: its name, for the record."""
    match error:
        case Retry():
            return Setback(
                handle=handle,
                kind="rescheduled",
                error="Retry",
                message=error.reason,
                worker=worker,
                when=Offset(error.after),
            )
        case Discard():
            return Setback(
                handle=handle, kind="discarded", error="Discard", message=error.reason, worker=worker
            )
        case _:
            return failure(handle, error, worker)
