"""Direct dispatch: a client submits the jobs that it has just inserted, or wakes a QueueRunner for them.

Blocking. A row is inserted with its first lease, so that no QueueRunner claims it meanwhile, and its job is
submitted after the commit. Jobs that cannot be submitted are released immediately, for a QueueRunner. An
error after the commit is not raised, because the jobs are stored, and the error only delays them.
"""

import ssl
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from garivini import events
from garivini.client.server_pool import ServerPool
from garivini.errors import GariviniError
from garivini.gearman.servers import queued
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.lease import LEASE
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import POLICIES_AGE
from garivini.outcome_events import emit_delivery
from garivini.store.database import Database
from garivini.store.shards import Shards
from garivini.submission import Delivery, is_late, submission, unfit

#: Maximum jobs of an insert that is dispatched directly. A longer list is inserted without leases, because
#: the insert could last longer than ``SUBMIT_WITHIN``, and then its jobs could not be submitted any more.
_MAX_JOBS: Final = 4000
#: Seconds after which the counts of the servers are read again.
_COUNTS_AGE: Final = 1.0


class DirectDispatch:
    """Submits a client's jobs to the Gearman servers. Safe for threads, and after a fork.

    Counts shared between threads may be slightly stale, so a function may briefly exceed or underuse its
    watermark.

    Args:
        shards: the databases of the jobs.
        job_servers: the Gearman servers as ``host:port``.
        watermark: maximum jobs of a function that wait in the Gearman servers; 0: unlimited.
        tls: encrypts the connections, if given.

    """

    def __init__(
        self, shards: Shards, job_servers: Sequence[str], *, watermark: int, tls: ssl.SSLContext | None
    ) -> None:
        self._shards = shards
        self._servers = ServerPool(job_servers, tls)
        self._watermark = watermark
        #: Number of jobs that may be submitted before the next count, by function and flag.
        self._room: dict[tuple[str, str], int] = {}

    def insert(self, jobs: Sequence[NewJob], wake: Callable[[], None]) -> list[Inserted]:
        """Insert jobs and submit those that have room; return one result per job, as ``Shards.insert`` does.

        ``wake`` is called if jobs are left to a QueueRunner, even if another database has failed.
        """
        must_wake = False

        def into(database: Database, part: Sequence[NewJob]) -> list[Inserted]:
            nonlocal must_wake
            part = self._lease(database, part)
            began = time.monotonic()
            answers = database.insert(part)
            try:
                must_wake |= self._dispatch(database, part, answers, began)
            except Exception:
                # This is a defect. The jobs are stored, so the caller must still get their results.
                events.emit("dispatch.failed", dbid=database.dbid, error=traceback.format_exc())
                must_wake = True
            return answers

        try:
            return self._shards.insert(jobs, into=into)
        finally:
            if must_wake:
                wake()

    # ---- before the insert

    def _lease(self, database: Database, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
        """Return the jobs, with a first lease for each one that is due and has room."""
        if len(jobs) > _MAX_JOBS or not any(job.dispatch and not job.delay for job in jobs):
            return jobs
        if not self._refresh_counts():
            return jobs
        read, policies = database.recent_policies()
        bytes_left = BATCH_BYTES
        leased = []
        for job in jobs:
            policy = policies[job.funcname]
            bytes_left -= len(job.arg)
            wanted = job.dispatch and not job.delay and bytes_left >= 0 and not unfit(job, policy)
            if policies.ruled and job.funcname in policies.ruled:
                wanted = False
            lease = policy.lease or LEASE
            if wanted and self._use_room(database, job, lease):
                job = job.with_lease(lease)
            leased.append(job)
        # If the settings have become too old meanwhile, no job is leased: an operator may have given a
        # function a rule since they were read.
        return leased if time.monotonic() - read < POLICIES_AGE else jobs

    def _refresh_counts(self) -> bool:
        """Read how many jobs wait in the servers, if that is due; return whether a server answers."""
        if time.monotonic() - self._servers.counted_at >= _COUNTS_AGE:
            self._servers.refresh_counts()
            self._room = {}
        return self._servers.answered

    def _use_room(self, database: Database, job: NewJob, lease: int) -> bool:
        """Subtract a job from the room of its function; return whether there was room for it."""
        if not self._watermark:
            return True
        rooms, key = self._room, (job.funcname, job.flag)
        if key not in rooms:
            waiting = queued(self._servers.counts(), job.funcname.encode())
            if job.flag == "controller":
                # Jobs of this flag wait in the servers under one name for all functions, and then in a
                # Controller.
                leased = database.leased(job.funcname, lease=lease, limit=self._watermark)
                waiting = max(waiting, leased)
            rooms[key] = self._watermark - waiting
        rooms[key] -= 1
        return rooms[key] >= 0

    # ---- after the commit

    def _dispatch(
        self, database: Database, jobs: Sequence[NewJob], answers: Sequence[Inserted], began: float
    ) -> bool:
        """Submit the jobs that are leased and new; return whether others are left to a QueueRunner.

        ``began``: monotonic time before the insert.
        """
        leased = []
        rest = False
        for job, answer in zip(jobs, answers, strict=True):
            if answer.new and job.lease:
                leased.append(Job.from_insert(job, answer))
            elif answer.new and not job.delay:
                rest = True
        if not leased:
            return rest
        if is_late(leased, time.monotonic() - began):
            delivery = Delivery.too_late(leased)
        else:
            policies = database.known_policies
            delivery = Delivery.of(
                leased, self._servers.submit([submission(job, policies[job.funcname]) for job in leased])
            )
            for unsent in delivery.unsent:
                self._room[unsent.funcname, unsent.flag] = 0
        emit_delivery(database.dbid, delivery)
        if delivery.delivered == len(leased):
            return rest
        self._give_up(database.expecting(leased[0].incarnation), delivery)
        return True

    def _give_up(self, database: Database, delivery: Delivery) -> None:
        """Leave undelivered jobs to a QueueRunner, which also parks those that are unfit."""
        try:
            if unsent := [*delivery.unsent, *(job for job, _ in delivery.unfit)]:
                database.release(unsent)
            for lease, handles in delivery.unknown_by_lease().items():
                database.end_early(handles, lease=lease)
        except GariviniError as error:
            # The jobs stay leased. When their leases expire, a QueueRunner finds them.
            events.emit("dispatch.failed", dbid=database.dbid, error=str(error))

    # ---- servers

    def wake(self) -> None:
        """Start the next pass of a QueueRunner immediately, if a server answers."""
        self._servers.wake()

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._servers.close()
