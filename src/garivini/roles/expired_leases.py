"""Handles the expired leases of a database: asks the servers, then extends each lease or reclaims its job."""

from collections.abc import Sequence

from garivini import events
from garivini.errors import GariviniError, RefusedError, UsageError
from garivini.model.job import Job
from garivini.model.lease import DEADLINE, Decision, Found, Reclaim, decide
from garivini.model.policy import MAX_CRASHES
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.job_servers import JobServers
from garivini.store.database import Lane, Lapsed
from garivini.submission import function_of


class ExpiredLeases:
    """Handles the expired leases of one database.

    Args:
        dispatcher: submits the jobs that are reclaimed.
        job_servers: are asked about the attempts.
        limit: maximum leases per lane and pass.
        refused: a list. If the database refuses to reclaim a row, the error is added to it.

    """

    def __init__(
        self, dispatcher: Dispatcher, job_servers: JobServers, limit: int, refused: list[GariviniError]
    ) -> None:
        self._dispatcher = dispatcher
        self._database = dispatcher.database
        self._servers = job_servers
        self._monotonic = dispatcher.monotonic
        self._limit = limit
        self._refused = refused

    async def handle(self, lanes: Sequence[Lane]) -> bool:
        """Handle the expired leases of lanes; return whether there may be more to do immediately."""
        more = False
        # If the database is replaced before the writes, the writes are refused, and the next pass reads the
        # leases again.
        self._database = self._dispatcher.database.expecting(self._dispatcher.database.incarnation)
        for lane in lanes:
            lapsed = await self._dispatcher.call(self._database.expired, lane, limit=self._limit)
            more |= len(lapsed) == self._limit
            if put_off := [row.jobid for row in lapsed if row.put_off]:
                # No lease of these rows has expired. Another program has put the jobs off, and they are due:
                # the next pass claims them.
                await self._dispatcher.call(self._database.requeue, put_off, locked=set())
                more = True
                lapsed = [row for row in lapsed if not row.put_off]
            if lapsed:
                more |= await self._decide(lane, lapsed)
        return more

    async def _decide(self, lane: Lane, lapsed: Sequence[Lapsed]) -> bool:
        """Extend leases or reclaim jobs; return whether jobs are waiting again."""
        lease = self._dispatcher.lease(lane.funcname)
        asked = self._monotonic()
        # A lane may hold jobs of both flags, which wait in Gearman under different functions. The servers are
        # asked for only one of these functions, because the function matters only for stranded copies.
        found = await self._servers.ask(
            function_of(lane.funcname, lapsed[0].flag),
            [self._dispatcher.unique(*row.call) for row in lapsed],
            silence=lease,
            patience=5 * lease,
        )
        extensions, reclaims = [], []
        for row, answer in zip(lapsed, found, strict=True):
            step = self._step(lane, row, answer, lease)
            events.emit(
                "lease.expired", jobid=row.jobid, attempt=row.attempt, found=answer.value, step=repr(step)
            )
            if isinstance(step, Reclaim):
                reclaims.append((row, step.crashed))
            else:
                extensions.append((row, step.state, step.seconds, step.queued))
        if extensions:
            await self._dispatcher.call(self._database.extend, extensions, locked=set())
        if reclaims:
            return await self._resubmit(await self._dispatcher.call(self._reclaim, reclaims, lease), asked)
        return False

    def _step(self, lane: Lane, row: Lapsed, found: Found, lease: int) -> Decision:
        policy = self._dispatcher.policy(lane.funcname)
        unique = self._dispatcher.unique(*row.call)
        return decide(
            row.state,
            found,
            age=row.age,
            lease=lease,
            renews=bool(policy.renews),
            deadline=policy.deadline or DEADLINE,
            delivered=self._servers.delivered(function_of(lane.funcname, row.flag), unique),
        )

    def _reclaim(self, steps: Sequence[tuple[Lapsed, bool]], lease: int) -> list[Job]:
        """Reclaim rows, and park those that cannot be reclaimed. For the database's thread.

        ``steps``: each row, and whether its worker has crashed.
        """
        self._dispatcher.read_policies(self._monotonic())
        try:
            return self._database.reclaim(steps, lease=lease, locked=set())
        except (UsageError, RefusedError) as error:
            if len(steps) > 1:
                half = len(steps) // 2
                return [*self._reclaim(steps[:half], lease), *self._reclaim(steps[half:], lease)]
            if isinstance(error, UsageError):
                self._dispatcher.park_row(steps[0][0].jobid, error)
            else:
                self._refused.append(error)
            return []

    async def _resubmit(self, jobs: Sequence[Job], claimed: float) -> bool:
        """Submit jobs again, and park those that have crashed too often.

        Jobs of a function with rules become waiting, due at once, so that admission decides about them.
        Returns whether there are such jobs.
        """
        for job in jobs:
            if job.crashes >= MAX_CRASHES:
                reason = f"its worker died or hung {job.crashes} times"
                await self._dispatcher.park(job, "WorkerLost", reason)
        left = [job for job in jobs if job.crashes < MAX_CRASHES]
        if ruled := [job for job in left if job.funcname in self._dispatcher.ruled]:
            await self._dispatcher.call(self._database.release, ruled, locked=set())
            left = [job for job in left if job.funcname not in self._dispatcher.ruled]
        await self._dispatcher.send(left, claimed)
        return bool(ruled)
