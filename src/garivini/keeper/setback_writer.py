"""Writes one setback with as much of its text as the database accepts."""

from collections.abc import Iterator
from dataclasses import replace

from garivini import events
from garivini.errors import ConflictError
from garivini.keeper.batch_writer import BatchWriter
from garivini.model.job import Handle
from garivini.model.outcome import Setback
from garivini.outcome_events import emit_settled
from garivini.store.database import Database


class SetbackWriter:
    """Settles single setbacks.

    An error text that a database refuses is stored in ASCII, or left out.

    Args:
        database: stores them.
        writer: decides which errors concern all writes.

    """

    def __init__(self, database: Database, writer: BatchWriter) -> None:
        self._database = database
        self._writer = writer

    def settle(self, setback: Setback) -> None:
        """Settle a setback.

        Raises:
            GariviniError: the setback cannot be written now, or not at all.

        """
        locked: set[int] = set()
        last: Exception = ConflictError("another transaction has locked its row")
        for variant in (setback, *_variants(setback)):
            try:
                (settled,) = self._database.settle([variant], locked=locked)
            except Exception as error:
                if self._writer.concerns_all(error) or isinstance(error, ConflictError):
                    raise
                last = error
                continue
            if locked:
                break
            if variant is not setback:
                emit_reduced(setback.handle, last)
            emit_settled(variant, settled)
            return
        raise last


def emit_dropped(handle: Handle, error: Exception) -> None:
    """Report that an outcome is given up."""
    jobid, dbid, attempt = handle
    events.emit("outcome.dropped", dbid=dbid, jobid=jobid, attempt=attempt, error=str(error))


def emit_reduced(handle: Handle, error: Exception) -> None:
    """Report that only a part of an outcome is written."""
    jobid, dbid, attempt = handle
    events.emit("outcome.reduced", dbid=dbid, jobid=jobid, attempt=attempt, error=str(error))


def _variants(setback: Setback) -> Iterator[Setback]:
    """Yield a setback with less and less text."""
    yield replace(
        setback,
        error=_ascii(setback.error),
        message=_ascii(setback.message),
        trace=_ascii(setback.trace),
        worker=_ascii(setback.worker),
    )
    bare = replace(setback, error="", message="", trace="", worker="")
    yield bare
    if setback.when is not None:
        yield replace(bare, when=None)


def _ascii(text: object) -> str:
    return str(text).encode("ascii", "backslashreplace").decode()
