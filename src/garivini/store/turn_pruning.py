"""Deletes turns of functions without rules about partitions, and times of rates that have passed."""

from garivini.model.policy import NO_POLICY
from garivini.store.policies import functions, set_function
from garivini.store.statements import Statements


def turns_left(run: Statements) -> list[str]:
    """Return the names of functions that have turns and no rule about partitions."""
    names = [name for (name,) in run("turn_functions")]
    policies = functions(run) if names else {}
    return [name for name in names if not policies.get(name, NO_POLICY).has_turns]


def forget_turns(run: Statements, funcname: str, limit: int) -> int:
    """Delete turns of a function without a rule about partitions, at most ``limit``; return how many.

    The function's row is locked meanwhile, because otherwise such a rule could be set again, and an admission
    begin.
    """
    run("create_functions", rows=[{"funcname": funcname}])
    if not run("lock_function", funcname=funcname) or functions(run)[funcname].has_turns:
        return 0
    jobids = sorted(jobid for (jobid,) in run("some_turns", funcname=funcname, limit=limit))
    if jobids:
        run("forget_turns", jobids=jobids)
    else:
        run("forget_partitions", funcname=funcname)
    set_function(run, funcname, NO_POLICY)  # deletes the function's row if that has no settings
    return len(jobids)


def forget_rates(run: Statements, limit: int) -> int:
    """Delete past times up to which partitions had used their rates, at most ``limit``; return how many."""
    return int(run("forget_partition_rates", limit=limit))
