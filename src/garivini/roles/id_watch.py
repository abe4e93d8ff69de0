"""Notices that a database gives ids again: it was restored, or replaced by a replica that lacked commits."""

from garivini import events


class IdWatch:
    """The highest id of a database that a process has seen. No I/O, but it emits an event.

    Args:
        dbid: the id of the database.

    """

    def __init__(self, dbid: int) -> None:
        self._dbid = dbid
        self._highest = 0
        #: When the job with this id was inserted, as a unix time.
        self._created = 0

    def note(self, jobid: int, created: int) -> None:
        """Note a job; report it if it was inserted after a job with a higher id.

        ``created``: when the job was inserted, as a unix time; 0: unknown, because the original inserted it.
        A difference of a second is not reported, because jobs inserted at about the same time may have their
        ids in any order.
        """
        if not created:
            return
        if jobid < self._highest:
            if created <= self._created + 1:
                return
            events.emit("database.ids_restarted", dbid=self._dbid, jobid=jobid, highest=self._highest)
        self._highest, self._created = jobid, created
