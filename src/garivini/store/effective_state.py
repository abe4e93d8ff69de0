"""The rule of a row's effective state, as conditions to which the SQL files refer by name.

Programs of the original know only ``run_after``: they put a job off, or park it, by that column alone and
leave ``state`` as it is. So ``state`` alone does not show whether an attempt holds the job:

* A row whose ``run_after`` is "never" is dead.
* A row in another state than 0 to 4 stays in it: see ``State.known``.
* A row in state 1 to 3 whose ``run_after`` is the end of its lease is leased, running or suspect, and its
  attempt holds it. A lease repeats its end in ``lease_end``: if the two differ, another program has put the
  row off. There are two exceptions. ``lease_end`` is 0 if a program that does not know the column has leased
  the row, and a ``run_after`` before the claim (``since``) only ends the lease.
* Every other row waits. It is due at ``run_after``.
"""

from collections.abc import Mapping
from typing import Final

from garivini.model.limits import NEVER

#: The conditions by name. ``held`` and ``put_off`` apply to rows whose ``state`` is 1 to 3. Each statement
#: must require such a state itself, in the form that suits its index. For a dead row both conditions are
#: false; for any other row exactly one of them is true.
CONDITIONS: Final[Mapping[str, str]] = {
    "held": f"run_after <> {NEVER} AND (lease_end IN (0, run_after) OR run_after < since)",
    "put_off": f"run_after <> {NEVER} AND lease_end NOT IN (0, run_after) AND run_after >= since",
    "effective_state": f"CASE WHEN run_after = {NEVER} THEN 4"
    " WHEN state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since THEN 0"
    " ELSE state END",
}
