"""Pauses of functions: nothing of a paused function is handed out, and its jobs can still be inserted."""

import math

from garivini.errors import UsageError
from garivini.model.policy import FOREVER, NO_POLICY
from garivini.model.when import At, Never, Offset, When
from garivini.store.policies import set_function
from garivini.store.statements import Statements
from garivini.store.views import clock


def pause(run: Statements, funcname: str, until: When) -> int:
    """Pause a function, or change the end of its pause; return the unix time of that end.

    Claims that began before this transaction, and settings that other programs have read, are not affected:
    see ``RULES_APPLY_AFTER``.

    Raises:
        UsageError: that time has passed.

    """
    now = math.ceil(round(clock(run), 3))  # SQLite's days are exact to a fraction of a millisecond
    match until:
        case Offset(seconds):
            end = min(now + seconds, FOREVER)
        case At(end):
            pass
        case Never():
            end = FOREVER
    if end <= now:
        raise UsageError(f"a pause ends in the future, and not at {end}: it is {now} by the database's clock")
    run("create_functions", rows=[{"funcname": funcname}])
    run("pause", funcname=funcname, paused_until=end)
    return end


def resume(run: Statements, funcname: str) -> bool:
    """End the pause of a function; return whether it was paused."""
    if not run("paused", funcname=funcname):
        return False
    run("pause", funcname=funcname, paused_until=None)
    set_function(run, funcname, NO_POLICY)  # deletes the row of the function if it has no settings
    return True
