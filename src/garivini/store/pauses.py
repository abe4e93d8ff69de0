"""Pauses of functions: nothing of a paused function is handed out, and its jobs can still be inserted."""

import math
from typing import Final

from garivini.errors import UsageError
from garivini.model.lease import OTHERS_LEASE
from garivini.model.limits import PRIORITIES
from garivini.model.policy import FOREVER, NO_POLICY
from garivini.model.when import At, Never, Offset, When
from garivini.store.policies import set_function
from garivini.store.statements import Statements
from garivini.store.views import clock

#: Maximum jobs of a priority that one transaction takes back.
_BATCH: Final = 1000


def pause(run: Statements, funcname: str, until: When, *, mark: bool = False) -> int:
    """Pause a function, or change the end of its pause; return the unix time of that end.

    Claims that began before this transaction, and settings that other programs have read, are not affected:
    see ``RULES_APPLY_AFTER``.

    Args:
        run: runs the statements.
        funcname: the function.
        until: the end of the pause.
        mark: let workers check each copy of the function's jobs before it starts, and renew the leases of
            those that run. Then ``take_back`` can tell which have started.

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
    if mark:
        run("mark_paused", funcname=funcname, lease=OTHERS_LEASE)
    return end


def take_back(run: Statements, funcname: str) -> int:
    """Set jobs of a function that were handed out and have not started back to waiting; return how many.

    The copies in Gearman servers no longer hold these jobs, and a Python worker does not start such a copy.
    Each call takes back a bounded number of jobs: repeat it until it returns 0. Jobs that another transaction
    has locked are left.
    """
    count = 0
    for priority in range(len(PRIORITIES)):
        rows = run("unstarted", funcname=funcname, priority=priority, limit=_BATCH)
        if jobids := sorted(jobid for (jobid,) in rows):
            run("take_back", jobids=jobids)
            count += len(jobids)
    return count


def resume(run: Statements, funcname: str) -> bool:
    """End the pause of a function; return whether it was paused."""
    if not run("paused", funcname=funcname):
        return False
    run("pause", funcname=funcname, paused_until=None)
    set_function(run, funcname, NO_POLICY)  # deletes the row of the function if it has no settings
    return True
