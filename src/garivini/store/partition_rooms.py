"""The room of each partition of a function: how many more of its jobs the rules allow."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from garivini.model.policy import MAX_RUNNING, FunctionPolicy
from garivini.store.statements import Statements

#: The room of a partition without a limit.
_UNLIMITED: Final = 1_000_000


class PartitionRooms:
    """The rooms, in a transaction that has locked the function's row.

    The jobs in flight are counted from their rows, so whatever ended one, and whichever program wrote it, the
    count is right. At most 10,000 jobs in flight of the function are counted; if there are as many, no
    partition has room.

    Args:
        run: runs the statements.
        funcname: the function.
        policy: has the rules of the function.
        now: the database's unix time with its fraction.

    """

    def __init__(self, run: Statements, funcname: str, policy: FunctionPolicy, now: float) -> None:
        self._run = run
        self._funcname = funcname
        self._now = now
        self._most = policy.partition_max_running
        self._rate = policy.partition_start_rate
        self._held: Counter[str] = Counter()
        #: The time up to which the rate of each partition is used; and the partitions whose times have
        #: changed.
        self._used: dict[str, float] = {}
        self._changed: set[str] = set()
        if self._most is not None:
            rows = run("in_flight_by_partition", funcname=funcname, limit=MAX_RUNNING)
            for partition, jobs in rows:  # jobs without a partition may be in two rows: NULL and ""
                self._held[partition] += jobs
            if self._held.total() >= MAX_RUNNING:
                self._most = 0

    def read(self, partitions: Sequence[str]) -> None:
        """Read the times up to which these partitions, at most 1,000, have used their rates."""
        if self._rate is not None and (unread := [name for name in partitions if name not in self._used]):
            self._used.update(dict.fromkeys(unread, 0.0))
            rows = self._run("partition_rates", funcname=self._funcname, partitions=unread)
            self._used.update((partition, used or 0.0) for partition, used in rows)

    def room(self, partition: str) -> int:
        """Return how many jobs of a partition that was read may be handed out now."""
        room = _UNLIMITED if self._most is None else max(0, self._most - self._held[partition])
        if self._rate is not None:
            room = min(room, self._rate.allowed(self._used[partition], self._now))
        return room

    def use(self, partition: str, jobs: int) -> None:
        """Count jobs of a partition that are handed out."""
        self._held[partition] += jobs
        if self._rate is not None and jobs:
            self._used[partition] = self._rate.use(self._used[partition], self._now, jobs)
            self._changed.add(partition)

    def until_room(self, partition: str) -> float:
        """Return the seconds until a partition without room may have some; 0: they are not known."""
        if self._rate is None or (self._most is not None and self._held[partition] >= self._most):
            return 0.0
        return self._rate.until_next(self._used[partition], self._now)

    def store(self) -> None:
        """Store the times up to which the rates are used."""
        if self._changed:
            rows = [
                {"funcname": self._funcname, "partition": partition, "used_until": self._used[partition]}
                for partition in sorted(self._changed)
            ]
            self._run("use_partition_rates", rows=rows)
