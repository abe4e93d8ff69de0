"""Which functions have rules, so that their jobs have a home among several databases."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from garivini.errors import ConflictError, GariviniError, RefusedError, UnreachableError
from garivini.model.policy import Policies, RuleScope
from garivini.store.database import Database

#: Seconds for which inserts avoid a database that failed.
AVOID: Final = 30.0


class Placements:
    """What the rules of functions apply to, as last read from all databases. Threads may share it.

    A function has a rule if any database has it, so that all programs compute the same homes although a
    database is down, or got a rule later than others.

    Args:
        clock: returns the monotonic time.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read: dict[int, Policies] = {}
        self._avoid_until: dict[int, float] = {}
        #: What the rules of each function apply to. Functions without rules are not in it.
        self.scopes: Mapping[str, RuleScope] = MappingProxyType({})

    def avoid(self, dbid: int) -> None:
        """Note that a database has failed."""
        self._avoid_until[dbid] = self._clock() + AVOID

    def avoids(self, dbid: int) -> bool:
        """Whether a database has failed within the last ``AVOID`` seconds."""
        return self._avoid_until.get(dbid, 0.0) > self._clock()

    def refresh(self, databases: Iterable[Database]) -> None:
        """Read the settings of functions that are older than ``POLICIES_AGE``.

        Those of a database that cannot be read stay as they are.
        """
        changed = False
        for database in databases:
            if self.avoids(database.dbid):
                continue
            try:
                _, policies = database.recent_policies()
            except (UnreachableError, RefusedError, ConflictError):
                self.avoid(database.dbid)
            except GariviniError:
                continue  # an insert there reports it
            else:
                changed |= self._read.get(database.dbid) is not policies
                self._read[database.dbid] = policies
        if changed:
            self.scopes = _scopes(list(self._read.values()))


def _scopes(read: Iterable[Policies]) -> dict[str, RuleScope]:
    scopes: dict[str, RuleScope] = {}
    for policies in read:
        for name in policies.ruled:
            scope = policies[name].rule_scope
            if scope is not None and scopes.get(name) != "function":
                scopes[name] = scope
    return scopes
