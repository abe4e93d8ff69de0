"""The settings of functions: reads them, and registers those of a worker."""

from collections.abc import Callable, Mapping
from typing import Final

from garivini.keeper.leases import Leases
from garivini.keeper.step import NOT_DUE
from garivini.keeper.wakeup import Wakeup
from garivini.model.policy import NO_POLICY, FunctionPolicy
from garivini.store.database import Database
from garivini.store.original import report_inexact

#: Functions registered per transaction.
_BATCH: Final = 500
#: Seconds after which a worker refreshes the settings of functions.
_MAX_AGE: Final = 5.0


class Functions:
    """The settings of functions in a database, as last read.

    Args:
        database: has the settings.
        own: the settings of this worker's functions; a Controller has none.
        leases: receives the leases of functions.
        wakeup: wakes the keeper's thread.
        monotonic: returns the monotonic time.
        on_read: called in the keeper's thread with the settings of this worker's functions, each time they
            are read. The calls begin when the worker's own settings are stored.

    """

    def __init__(
        self,
        database: Database,
        own: Mapping[str, FunctionPolicy],
        leases: Leases,
        wakeup: Wakeup,
        monotonic: Callable[[], float],
        on_read: Callable[[Mapping[str, FunctionPolicy]], None],
    ) -> None:
        self._database = database
        self._own = own
        self._on_read = on_read
        self._registered = False
        self._leases = leases
        self._wakeup = wakeup
        self._monotonic = monotonic
        self._refreshes = bool(own)
        self._must_read = bool(own)
        self._publishes = False
        self._read_at = 0.0  # monotonic
        #: The settings by function; None before they are read.
        self.stored: Mapping[str, FunctionPolicy] | None = None
        #: The settings by function. A Controller has None until its first ``read`` is done. A worker begins
        #: with its own settings, but has None if none of its functions keeps jobs after success. Other
        #: threads read this.
        self.policies: Mapping[str, FunctionPolicy] | None = _if_kept(own, own)
        leases.seconds = {name: policy.lease for name, policy in own.items() if policy.lease}

    def read(self) -> None:
        """Read the settings in the next round, and set ``policies``."""
        self._publishes = self._must_read = True
        self._wakeup.set()

    def refresh_old(self, now: float) -> None:
        """Read a worker's settings in the next round if they are older than ``_MAX_AGE``."""
        if now - self._read_at > _MAX_AGE and self._refreshes:
            self._must_read = True

    def step(self) -> None:
        """Read the settings, if requested."""
        if not self._must_read:
            return
        self.stored = self._database.functions()
        self._must_read = False
        self._read_at = self._monotonic()
        self._leases.seconds = {name: policy.lease for name, policy in self.stored.items() if policy.lease}
        if self._publishes:
            self.policies = self.stored
        if self._registered:
            self._publish_own()

    def registered(self, *, changed: bool) -> None:
        """Use the settings of this worker's functions from now on, because they are stored.

        ``changed``: whether storing them has changed any settings, so that they must be read again.
        """
        self._registered = True
        if changed:
            self._must_read = True
            self._wakeup.set()
        else:
            self._publish_own()

    def _publish_own(self) -> None:
        """Let the worker use its functions' settings."""
        stored = self.stored or {}
        own = {name: stored.get(name, NO_POLICY) for name in self._own}
        if not self._publishes:
            # Plain functions do not need the settings: with None, a job costs only a test.
            self.policies = _if_kept(stored, own)
        self._on_read(own)

    def next_due(self) -> float:
        """Return infinity: a request wakes the thread, and a refresh is not urgent."""
        return NOT_DUE


def _if_kept(
    policies: Mapping[str, FunctionPolicy], own: Mapping[str, FunctionPolicy]
) -> Mapping[str, FunctionPolicy] | None:
    """Return the settings if a worker keeps jobs of one of its own functions after success, or None."""
    return policies if any(policy.retention for policy in own.values()) else None


class Registration:
    """Stores a worker's settings of its functions, and that it renews leases, once after the start.

    Args:
        database: stores them.
        own: the settings by function.
        functions: reads the settings before and after.
        wakeup: wakes the keeper's thread.

    """

    def __init__(
        self,
        database: Database,
        own: Mapping[str, FunctionPolicy],
        functions: Functions,
        wakeup: Wakeup,
    ) -> None:
        self._database = database
        self._own = own
        self._functions = functions
        self._wakeup = wakeup
        self._changed = False
        #: The settings that are still to be stored; None before those in the database have been read.
        self.remaining: list[tuple[str, FunctionPolicy]] | None = None

    def step(self) -> None:
        """Store a batch of settings. Others follow in the next rounds, as other steps are more urgent."""
        if self.remaining is None:
            if self._functions.stored is None:
                return
            self.remaining = list(self._own.items())
        if not self.remaining:
            return
        batch = self.remaining[-_BATCH:]
        self._changed |= self._database.register_functions(dict(batch))
        del self.remaining[-_BATCH:]
        if self.remaining:
            self._wakeup.set()
        else:
            self._functions.registered(changed=self._changed)
            report_inexact(self._database, self._own)

    def next_due(self) -> float:
        """Return infinity: each step wakes the thread for the next one."""
        return NOT_DUE
