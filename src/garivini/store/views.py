"""Reads for operators: jobs, their numbers, and facts about the database."""

from collections import Counter
from typing import NamedTuple

from garivini.model.job import Job
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.store.chunks import CHUNK
from garivini.store.job_rows import from_row
from garivini.store.statements import Statements


class Count(NamedTuple):
    """The number of jobs of a function in a state, and the earliest ``run_after`` among them."""

    funcname: str
    state: State
    jobs: int
    first: int


class Waiting(NamedTuple):
    """Numbers of waiting jobs: due, delayed until a given time, backed off after a failure."""

    due: int
    delayed: int
    backed_off: int


def get(run: Statements, jobid: int) -> Job | None:
    """Return one job, or None."""
    rows = run("get", jobid=jobid)
    return from_row(rows[0], run.dbid) if rows else None


def counts(run: Statements) -> list[Count]:
    """Count the jobs of each function and state."""
    rows = run("counts")
    leased = sorted({funcname for funcname, state, *_ in rows if 0 < state < State.DEAD})
    put_off = []
    for start in range(0, len(leased), CHUNK):
        put_off += run("count_put_off", funcnames=leased[start : start + CHUNK])
    totals = Counter[tuple[str, State]]()
    firsts: dict[tuple[str, State], int] = {}

    def count(funcname: str, state: int, jobs: int, first: int) -> None:
        key = (funcname, State(state))
        totals[key] += jobs
        firsts[key] = min(first, firsts.get(key, first))

    for funcname, state, number, first, never in rows:
        count(funcname, state, number - never, first)
        count(funcname, State.DEAD, never, NEVER)
    for funcname, state, number, first in put_off:
        totals[funcname, State(state)] -= number
        count(funcname, State.WAITING, number, first)
    return [Count(*key, number, firsts[key]) for key, number in sorted(totals.items()) if number]


def waiting(run: Statements) -> Waiting:
    """Count the waiting jobs by the reason of their wait."""
    return Waiting(*run("waiting")[0])


def clock(run: Statements) -> float:
    """Return the database's unix time."""
    return float(run("clock")[0][0])


def facts(run: Statements) -> dict[str, str]:
    """Return settings of the database that decide whether a job can be lost, by their names there."""
    read = {name.lower(): str(value) for name, value in run("facts")}
    return read | run.dialect.server_facts(run) | run.dialect.local_facts(read)
