"""The calls of a database about unique keys with rules, and about jobs that expire."""

import math
import time
from collections.abc import Sequence

from garivini.model.job import NewJob
from garivini.model.outcome import Setback, Settled
from garivini.model.policy import POLICIES_AGE, FunctionPolicy, Policies
from garivini.store import expiry, policies, successors, unique_inserts
from garivini.store.calls import in_transaction, read_only
from garivini.store.chunks import CHUNK
from garivini.store.connections import Connections
from garivini.store.key_rules import KeyRules, key_rules


class KeyCalls:
    """The calls of ``Database`` about unique keys with rules, and about jobs that expire."""

    connections: Connections
    _key_rules: KeyRules
    #: When ``recent_policies`` has read the settings of functions (monotonic time), and these settings.
    _recent: tuple[float, Policies] = (-math.inf, Policies())

    _functions = read_only(policies.functions)

    def functions(self) -> dict[str, FunctionPolicy]:
        """Return the settings of each function that apply; those of the empty name are the default of all."""
        found = self._functions()
        self._key_rules.remember(found)
        return found

    def recent_policies(self) -> tuple[float, Policies]:
        """Return settings of functions that are at most ``POLICIES_AGE`` old, and when they were read.

        The time is monotonic.
        """
        now = time.monotonic()
        if now - self._recent[0] >= POLICIES_AGE:
            self._recent = now, Policies(self.functions())
        return self._recent

    @property
    def known_policies(self) -> Policies:
        """The settings of functions that ``recent_policies`` returned last."""
        return self._recent[1]

    _read_key_rules = read_only(key_rules)

    def _with_key_rules(self, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
        return self._key_rules.apply(jobs, self._read_key_rules)

    @property
    def queues_keys(self) -> bool:
        """Whether any function has a rule by which inserts are stored until the job of their key ends."""
        return self._key_rules.queue

    _successors_left = read_only(successors.successors_left)
    _promote_left = in_transaction(successors.promote_left)
    _old_keys = read_only(unique_inserts.old_keys)
    _forget_keys = in_transaction(unique_inserts.forget_keys)
    _discard_late = in_transaction(expiry.discard_late)

    def forget_keys(self, limit: int = CHUNK) -> int:
        """Delete keys whose window has ended; return how many. If there are none, it costs one statement."""
        return self._forget_keys(limit) if self._old_keys() else 0

    def promote_successors(self, limit: int = CHUNK) -> bool:
        """If another program has deleted or parked a job, make its successor a job.

        Returns whether there are successors, also of other jobs. If there are none, it costs two statements.
        """
        left, found = self._successors_left(limit)
        for jobid in left:
            self._promote_left(jobid)
        return found

    def discard_late(self, limit: int = CHUNK) -> list[tuple[Setback, Settled]]:
        """Discard expired jobs that wait, of functions with ``expires``: per lane at most ``limit``."""
        found = self._functions()
        if all(policy.expires is None for policy in found.values()):
            return []
        return self._discard_late(found, limit)
