"""Tables that QueueRunners of the original can use: these claim jobs without regard to rules of functions."""

from collections.abc import Iterable, Mapping

from garivini import events
from garivini.errors import UsageError
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database


def serves_original(database: Database) -> bool:
    """Whether a table has the index for QueueRunners of the original, so that they may work on it."""
    return database.dialect == "mysql" and database.facts().get("original_table", "0") != "0"


def check_exact(databases: Iterable[Database]) -> None:
    """Check that no QueueRunner of the original can work on a table.

    Raises:
        UsageError: a table has the index for them.

    """
    for database in databases:
        if serves_original(database):
            raise UsageError(
                f"{database.where}: QueueRunners of the original can use this table, and keep no limits, "
                "rates, turns and pauses. If none runs, drop their index, as garivini doctor says; or accept "
                "a rule that is not exact: --inexact, or inexact=True"
            )


def report_inexact(database: Database, given: Mapping[str, FunctionPolicy]) -> None:
    """Emit one event if functions have rules that QueueRunners of the original would not keep."""
    ruled = sorted(name for name, policy in given.items() if policy.has_rules)
    if ruled and serves_original(database):
        events.emit("functions.inexact", dbid=database.dbid, functions=", ".join(ruled))
