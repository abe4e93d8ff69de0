"""The settings of functions that are stored in the database."""

from collections.abc import Mapping
from typing import Any

from garivini.model.policy import FunctionPolicy
from garivini.store.chunks import CHUNK
from garivini.store.statements import Statements


def functions(run: Statements) -> dict[str, FunctionPolicy]:
    """Return the settings of each function; that of the empty name is the default of all."""
    return {
        funcname: FunctionPolicy(
            lease=lease,
            deadline=deadline,
            renews=None if renews is None else bool(renews),
            envelope=envelope,
            max_failures=max_failures,
            retention=retention,
            max_running=max_running,
        )
        for funcname, lease, deadline, renews, envelope, max_failures, retention, max_running in run(
            "functions"
        )
    }


def register_functions(run: Statements, policies: Mapping[str, FunctionPolicy]) -> None:
    """Store the settings of a starting worker's functions; others stay as they are.

    ``renews`` is set only if it is not set yet: an operator may know of workers that do not renew.
    """
    rows = [_function_row(funcname, policy) for funcname, policy in sorted(policies.items())]
    for start in range(0, len(rows), CHUNK):
        run("register_functions", rows=rows[start : start + CHUNK])


def set_function(run: Statements, funcname: str, policy: FunctionPolicy) -> None:
    """Store the settings in ``policy`` that are not None; others stay as they are."""
    run("set_function", **_function_row(funcname, policy))


def unset_function(run: Statements, funcname: str) -> None:
    """Delete the settings of a function, so that the defaults apply."""
    run("unset_function", funcname=funcname)


def _function_row(funcname: str, policy: FunctionPolicy) -> dict[str, Any]:
    return {
        "funcname": funcname,
        "lease": policy.lease,
        "deadline": policy.deadline,
        "renews": None if policy.renews is None else int(policy.renews),
        "envelope": policy.envelope,
        "max_failures": policy.max_failures,
        "retention": policy.retention,
        "max_running": policy.max_running,
    }
