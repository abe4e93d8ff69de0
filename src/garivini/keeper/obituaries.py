"""Records the jobs that were running when another process of this worker died."""

from collections.abc import Callable
from typing import Final

from garivini.errors import OutcomeUnknownError
from garivini.keeper.batch_writer import BATCH, BatchWriter, is_unfit
from garivini.keeper.inbox import Inbox
from garivini.keeper.recognition import Recognition
from garivini.keeper.setback_writer import SetbackWriter, emit_dropped
from garivini.keeper.supervised_child import Obituary, SupervisedChild
from garivini.model.job import Handle
from garivini.model.outcome import Setback

#: The name of the error in the failure of a job, by the kind of its setback.
_ERRORS: Final = {"failed": "TimeLimit", "crashed": "ProcessDied"}


class Obituaries:
    """The obituaries of one database's jobs, until they are recorded.

    Args:
        child: has the obituaries of all databases, and notes for the parent that all are recorded.
        dbid: the id of the database.
        setbacks: writes single setbacks to it.
        writer: decides which errors concern all writes.
        recognition: knows the incarnation of the database.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        child: SupervisedChild | None,
        dbid: int,
        setbacks: SetbackWriter,
        writer: BatchWriter,
        recognition: Recognition,
        monotonic: Callable[[], float],
    ) -> None:
        self._child = child
        self._setbacks = setbacks
        self._writer = writer
        self._recognition = recognition
        self._monotonic = monotonic
        self._inbox = Inbox(it for it in (child.obituaries if child else ()) if it.handle.dbid == dbid)

    def step(self) -> None:
        """Record the obituaries that wait, and the deferred ones that are due."""
        now = self._monotonic()
        batch = self._inbox.take_batch(now, BATCH)
        for index, obituary in enumerate(batch):
            try:
                recorded = self._record(obituary, now)
            except Exception:
                self._inbox.put_back(batch[index:])
                raise
            if recorded:
                assert self._child is not None
                self._child.obituaries.remove(obituary)
                if not self._child.obituaries:  # all keepers have recorded theirs: report this to the parent
                    self._child.slot.note_recorded()

    def next_due(self) -> float:
        """Return when the first deferred obituary is due."""
        return self._inbox.next_due()

    def _record(self, obituary: Obituary, now: float) -> bool:
        """Record an obituary; return whether it is done. Otherwise it is deferred.

        An obituary of another incarnation is dropped, because it has no values of its job to compare with the
        row.

        Raises:
            GariviniError: one that concerns all writes.

        """
        if obituary.incarnation not in (None, self._recognition.current):
            self._recognition.report(1)
            return True
        setback = Setback(
            handle=Handle(*obituary.handle),
            kind=obituary.kind,
            error=_ERRORS[obituary.kind],
            message=obituary.message,
        )
        try:
            self._setbacks.settle(setback)
        except Exception as error:
            # A failure ends its attempt, so a failure that is recorded twice counts once. A crash counts each
            # time it is recorded, and one record too many could make a harmless job dead. So if it is unknown
            # whether the record of a crash was committed, the crash is not recorded again.
            if isinstance(error, OutcomeUnknownError) and obituary.kind == "crashed":
                return True
            if self._writer.concerns_all(error):
                raise
            if not is_unfit(error):
                self._inbox.defer(obituary, error, now)
                return False
            emit_dropped(setback.handle, error)
        return True
