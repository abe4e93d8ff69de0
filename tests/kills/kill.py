"""One role after the other is killed under load: what was lost or ran twice, and how soon work went on.

A victim is stopped before it is killed, so that what it had in flight can be read while nothing changes.
"""

import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from garivini import State
from garivini.gearman.blocking import Client as GearmanClient
from garivini.model.job import unique_of
from tests.kills.history import (
    Acknowledged,
    AnyLine,
    JobId,
    Killed,
    Recorder,
    Started,
    Verdict,
    check,
    longest_insert,
)
from tests.kills.load import PATIENCE, STOCK_WORKERS, Load, load, pause
from tests.sql_servers import SQLServer

#: ``worker`` is the parent and its children at once, as for want of memory or at the loss of a machine.
ROLES: Final = ("worker-child", "worker-parent", "worker", "queue-runner", "gearman", "client")
#: Those of a pure load.
PURE_ROLES: Final = ("injector", "controller", "stock-worker", "queue-runner", "gearman", "client")
#: What a database server of its own can suffer: its end and its return, to stand still, to refuse writes.
FAULTS: Final = ("database-killed", "database-frozen", "database-read-only")
#: Seconds that a database is away, at least and at most.
_AWAY: Final = {
    "database-killed": (0.0, 3.0),
    "database-frozen": (20.0, 20.0),
    "database-read-only": (1.0, 5.0),
}

#: Seconds after its start by which a job is long done, and the server has been told.
_COMMITTED: Final = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What came of the kills of one role. Seconds, sorted."""

    role: str
    kills: int
    #: Jobs that may have run once more, over all kills.
    in_flight: int
    #: Until the first job that the kill had halted started again, or until all of them had.
    first: list[float]
    all: list[float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    verdict: Verdict
    reports: list[Report]
    #: Seconds.
    longest_insert: float


def run(
    folder: Path,
    roles: Sequence[str],
    kills: int,
    seed: int,
    *,
    servers: Sequence[SQLServer] = (),
    gearmand: bool = False,
    pure: bool = False,
) -> Outcome:
    """Kill each of these roles, or let each of these faults happen, so many times under load.

    A fault of a database is one of the first of these ``servers``.
    """
    rng = random.Random(f"{seed} {roles}")
    with load(folder, seed, servers, gearmand=gearmand, pure=pure) as system:
        record = Recorder(folder / "history")
        system.until_steady(0)
        for role in roles:
            for _ in range(kills):
                pause(rng, system.history)
                killed = strike(system, role, rng)
                record(killed)
                recover(system, killed)
        left = system.finish()
        lines = system.history.refresh().lines
    done = [line for line in lines if isinstance(line, Killed)]
    reports = [report(role, [kill for kill in done if kill.role == role], lines) for role in roles]
    return Outcome(check(lines, left), reports, longest_insert(lines))


# ---- one kill


def strike(system: Load, role: str, rng: random.Random) -> Killed:
    """Kill a role and start it again; return what it had in flight."""
    if role in FAULTS:
        return _strike_database(system, role, rng)
    name = (
        "worker" if role == "worker-parent" else rng.choice(STOCK_WORKERS) if role == "stock-worker" else role
    )
    pids = victims(system, role, name, rng)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        _until_stopped(pid)
    in_flight, halted = caught(system, role, pids)
    now = time.monotonic_ns()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if role != "worker-child":  # those are their parent's to start again
        service = system.services[name]
        service.kill()
        service.start()
    return Killed(time=now, role=role, pids=pids, in_flight=in_flight, halted=halted)


def _strike_database(system: Load, fault: str, rng: random.Random) -> Killed:
    """Take the database away for a while. Then nothing runs twice, and the time counts from its return."""
    assert system.servers, "SQLite has no server"
    server = system.servers[0]
    seconds = rng.uniform(*_AWAY[fault])
    match fault:
        case "database-killed":
            server.kill()
            time.sleep(seconds)
            server.start()
        case "database-frozen":
            server.freeze()
            time.sleep(seconds)
            server.thaw()
        case _:
            server.set_read_only(True)
            time.sleep(seconds)
            server.set_read_only(False)
    return Killed(time=time.monotonic_ns(), role=fault, pids=[], in_flight=[], halted=[])


def victims(system: Load, role: str, name: str, rng: random.Random) -> list[int]:
    """Return the processes to kill, of the service of this name."""
    children = system.children()
    match role:
        case "worker-child":
            return [rng.choice(children)]
        case "worker":
            return [system.services[name].pid, *children]
        case _:
            return [system.services[name].pid]


def _until_stopped(pid: int) -> None:
    """Wait until every thread of a process stands still."""
    deadline = time.monotonic() + PATIENCE
    while not _stands_still(pid):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.0005)


def _stands_still(pid: int) -> bool:
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread has ended meanwhile
        return False
    return all(stat.rsplit(")", 1)[1].split()[0] in "TZ" for stat in stats)


def caught(system: Load, role: str, pids: Sequence[int]) -> tuple[list[JobId], list[tuple[JobId, int]]]:
    """Return what a stopped role has in flight: what may run once more, and what cannot go on without it."""
    rows = {(job.jobid, job.dbid): job for job in system.rows()}
    held = {
        job: row.attempt or 0
        for job, row in rows.items()
        if row.state in (State.LEASED, State.RUNNING, State.SUSPECT)
    }
    if role in ("queue-runner", "injector", "client"):
        # What it has leased and not sent never started, so it cannot run twice.
        unsent = held.items() - known(system.address, held).items()
        now = next(iter(system.client.shards)).clock()
        due = [job for job, row in rows.items() if row.state is State.WAITING and row.run_after <= now]
        waits = due if role == "queue-runner" else []
        return [], [*sorted(unsent), *((job, rows[job].attempt or 0) for job in waits)]
    if role == "gearman":
        return list(held), list(held.items())
    last = {run.job: run for run in sorted(system.history.refresh().starts(), key=lambda run: run.time)}
    if role == "controller":
        # As with a worker: a job may be done and its copy not be.
        since = time.monotonic_ns() - _COMMITTED * 1_000_000_000
        done = {job: run.attempt for job, run in last.items() if run.time > since and job not in rows}
        return sorted(held.keys() | known(system.address, done).keys()), list(held.items())
    begun = {job: run.attempt for job, run in last.items() if run.pid in pids}
    # The server is told of an end after its commit: until then it would give the copy to another worker.
    again = {job for job in begun if job in rows} | known(system.address, begun).keys()
    return sorted(again), [(job, attempt) for job, attempt in begun.items() if job in rows]


def known(address: str, attempts: Mapping[JobId, int]) -> dict[JobId, int]:
    """Return those attempts that the Gearman server has."""
    with GearmanClient(address) as client:
        said = client.status([unique_of(dbid, jobid, attempt) for (jobid, dbid), attempt in attempts.items()])
    return {
        job: attempt for (job, attempt), status in zip(attempts.items(), said, strict=True) if status.known
    }


def recover(system: Load, killed: Killed) -> None:
    """Wait until what was halted has come to its end, and new jobs go the whole way again."""
    halted = {job for job, _ in killed.halted}
    system.until(
        lambda: (
            not any((row.jobid, row.dbid) in halted and row.state is not State.DEAD for row in system.rows())
        ),
        f"the end of what was halted by the kill of {killed.role}",
    )
    system.until(lambda: fresh(system.history.refresh().lines, killed), "a new job to start")
    system.until_steady(killed.time)


# ---- the time until work goes on


def report(role: str, kills: Sequence[Killed], lines: Sequence[AnyLine]) -> Report:
    """Measure how soon work went on after each kill of a role."""
    starts = sorted((line for line in lines if isinstance(line, Started)), key=lambda run: run.time)
    first, last = [], []
    for kill in kills:
        times = resumed(kill, starts, lines)
        if times:
            first.append((min(times) - kill.time) / 1e9)
            last.append((max(times) - kill.time) / 1e9)
    return Report(role, len(kills), sum(len(kill.in_flight) for kill in kills), sorted(first), sorted(last))


def resumed(kill: Killed, starts: Sequence[Started], lines: Sequence[AnyLine]) -> list[int]:
    """Return when what the kill had halted started, each for the first time since.

    Of a Gearman server only a later attempt counts: a copy that a worker held already proves nothing.
    Where nothing was halted, the first new job shows that the role is back; for a worker's child it would
    not, as the other child takes it.
    """
    later = [run for run in starts if run.time > kill.time]
    if kill.role == "worker-parent":
        # Its children finish what they have; the first job of a new one shows that work goes on.
        old = {run.pid for run in starts if run.time <= kill.time}
        return [run.time for run in later if run.pid not in old][:1]
    attempts = dict(kill.halted)
    if kill.role == "controller":
        # What its last calls start still proves nothing; a call that is made again, or of a new job, does.
        before = {run.job for run in starts if run.time <= kill.time}
        again = [run.time for run in later if run.job in attempts and run.job in before]
        back = min([*again, *fresh(lines, kill)], default=0)
        later = [run for run in later if run.time >= back]
    times: dict[JobId, int] = {}
    for run in later:
        if run.job in attempts and (kill.role != "gearman" or run.attempt > attempts[run.job]):
            times.setdefault(run.job, run.time)
    if not times and kill.role != "worker-child":
        return fresh(lines, kill)
    return list(times.values())


def fresh(lines: Sequence[AnyLine], kill: Killed) -> list[int]:
    """Return when the first job started whose insert was begun after the kill; empty: none has."""
    new = {
        job for line in lines if isinstance(line, Acknowledged) and line.time > kill.time for job in line.jobs
    }
    times = [line.time for line in lines if isinstance(line, Started) and line.job in new]
    return [min(times)] if times else []


def percentile(times: Sequence[float], share: float) -> float:
    """Return the smallest time that this share does not exceed, by nearest rank."""
    return times[max(0, -(-len(times) * round(share * 100) // 100) - 1)]
