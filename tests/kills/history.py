"""What happened to jobs, written down by every process that saw it, and whether that is as it should be.

Each process appends to a file of its own, one write a line, so that a kill cuts no line and no two mix. All
times are of CLOCK_MONOTONIC, which the processes of a machine share. The check is Jepsen's "total queue".
"""

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec

from garivini import Job, State

#: A job's id and its database's.
JobId: TypeAlias = tuple[int, int]


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """One thing that happened."""

    #: Nanoseconds.
    time: int = msgspec.field(default_factory=time.monotonic_ns)


class Attempted(Line, frozen=True, kw_only=True):
    """An insert was begun. Each job has a token that nobody else gives."""

    tokens: list[str]


class Acknowledged(Line, frozen=True, kw_only=True):
    """The insert returned."""

    tokens: list[str]
    jobs: list[JobId]


class Refused(Line, frozen=True, kw_only=True):
    """The insert raised, and said that nothing was inserted. Without a line its outcome is unknown."""

    tokens: list[str]
    error: str


class Unanswered(Line, frozen=True, kw_only=True):
    """The insert raised, and said that its outcome is unknown."""

    tokens: list[str]


class Started(Line, frozen=True, kw_only=True):
    """A function was called."""

    job: JobId
    attempt: int
    token: str
    pid: int


class Ended(Line, frozen=True, kw_only=True):
    """A function returned; that may not be committed yet."""

    job: JobId
    attempt: int
    token: str
    pid: int


class Killed(Line, frozen=True, kw_only=True):
    """Processes of a role were killed."""

    role: str
    pids: list[int]
    #: Jobs that may run once more because of it: they had begun, or lay in the memory of a server.
    in_flight: list[JobId]
    #: What could not go on without the role, with the attempt at the time.
    halted: list[tuple[JobId, int]]


AnyLine: TypeAlias = Attempted | Acknowledged | Refused | Unanswered | Started | Ended | Killed

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyLine)


class Recorder:
    """Appends to a process's own file. A forked child opens another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._file = -1

    def __call__(self, line: Line) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            name = f"{self._pid}-{time.monotonic_ns()}.jsonl"  # process ids repeat
            self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._file, _encoder.encode(line) + b"\n")


class History:
    """All lines of a folder so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: Counter[Path] = Counter()
        self.lines: list[AnyLine] = []

    def refresh(self) -> "History":
        """Read what has been written since the last call."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read[path])
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            self.lines += map(_decoder.decode, whole.splitlines())
        return self

    def starts(self) -> list[Started]:
        """Return every call of a function."""
        return [line for line in self.lines if isinstance(line, Started)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found."""

    acknowledged: int
    #: Acknowledged, and neither did a run of it reach its end nor is it kept for a reason of policy.
    lost: list[JobId]
    #: Ran, though nobody tried to insert it, or was told that it was not inserted, or under another's id.
    unexpected: list[str]
    #: Ran, though its insert never returned: allowed.
    recovered: list[str]
    #: Stored again by an Injector to which the server gave the call of one that was killed: how often.
    stored_again: dict[str, int]
    #: Started, and reached an end, more than once: how often too many.
    started_again: dict[JobId, int]
    ended_again: dict[JobId, int]
    #: Started more often than the kills at which it was in flight explain.
    unexplained: list[JobId]
    #: In the database at the end, for no reason of policy; and those of them that hold a lease.
    left: list[JobId]
    leased: list[JobId]
    #: Dead or backing off at the end.
    kept: list[JobId] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all is as promised."""
        return not (self.lost or self.unexpected or self.unexplained or self.left)


def check(lines: Iterable[AnyLine], database: Sequence[Job]) -> Verdict:
    """Compare what was acknowledged with what ran and with what is in the database at the end."""
    lines = sorted(lines, key=lambda line: line.time)
    acknowledged = {
        token: job
        for line in lines
        if isinstance(line, Acknowledged)
        for token, job in zip(line.tokens, line.jobs, strict=True)
    }
    starts: dict[JobId, list[Started]] = defaultdict(list)
    ends: Counter[JobId] = Counter()
    for line in lines:
        if isinstance(line, Started):
            starts[line.job].append(line)
        elif isinstance(line, Ended):
            ends[line.job] += 1
    kept = {(job.jobid, job.dbid) for job in database if _waits_by_policy(job)}
    rest = [job for job in database if (job.jobid, job.dbid) not in kept]
    stored_again = _stored_again(lines, acknowledged)
    unexpected, recovered = _unasked(lines, acknowledged, stored_again)
    return Verdict(
        acknowledged=len(acknowledged),
        lost=sorted(job for job in acknowledged.values() if not ends[job] and job not in kept),
        unexpected=unexpected,
        recovered=recovered,
        stored_again=stored_again,
        started_again=_repeats({job: len(runs) for job, runs in starts.items()}),
        ended_again=_repeats(ends),
        unexplained=_unexplained(starts, [line for line in lines if isinstance(line, Killed)]),
        left=[(job.jobid, job.dbid) for job in rest],
        leased=[(job.jobid, job.dbid) for job in rest if job.state is not State.WAITING],
        kept=sorted(kept),
    )


def longest_insert(lines: Iterable[AnyLine]) -> float:
    """Return the seconds until the slowest insert that returned or raised had done so."""
    begun: dict[str, int] = {}
    longest = 0
    for line in sorted(lines, key=lambda line: line.time):
        if isinstance(line, Attempted):
            begun[line.tokens[0]] = line.time
        elif isinstance(line, Acknowledged | Refused | Unanswered):
            longest = max(longest, line.time - begun[line.tokens[0]])
    return longest / 1e9


def _waits_by_policy(job: Job) -> bool:
    return job.state is State.DEAD or (job.state is State.WAITING and job.failcount > 0)


def _repeats(counts: Mapping[JobId, int]) -> dict[JobId, int]:
    return {job: count - 1 for job, count in counts.items() if count > 1}


def _stored_again(lines: Sequence[AnyLine], acknowledged: Mapping[str, JobId]) -> dict[str, int]:
    """Return the tokens that are of several jobs, if as many Injectors died during their insert."""
    kills = [line.time for line in lines if isinstance(line, Killed) and line.role == "injector"]
    begun = {token: line.time for line in lines if isinstance(line, Attempted) for token in line.tokens}
    answered = {token: line.time for line in lines if isinstance(line, Acknowledged) for token in line.tokens}
    jobs: dict[str, set[JobId]] = defaultdict(set)
    for token, job in acknowledged.items():
        jobs[token].add(job)
    for line in lines:
        if isinstance(line, Started) and line.token in begun:
            jobs[line.token].add(line.job)
    found = {}
    for token, stored in jobs.items():
        last = answered.get(token, math.inf)
        deaths = sum(begun[token] <= time <= last for time in kills)
        if 1 < len(stored) <= deaths + 1:
            found[token] = len(stored) - 1
    return found


def _unasked(
    lines: Sequence[AnyLine], acknowledged: Mapping[str, JobId], stored_again: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """Return the tokens that ran and should not have, and those that ran though no answer came."""
    attempted = {token for line in lines if isinstance(line, Attempted) for token in line.tokens}
    refused = {token for line in lines if isinstance(line, Refused) for token in line.tokens}
    ran = {(line.token, line.job) for line in lines if isinstance(line, Started)}
    unexpected = {
        token
        for token, job in ran
        if token not in attempted
        or token in refused
        or (acknowledged.get(token, job) != job and token not in stored_again)
    }
    unanswered = {token for token, _ in ran if token not in acknowledged}
    return sorted(unexpected), sorted(unanswered - unexpected)


def _unexplained(starts: Mapping[JobId, Sequence[Started]], kills: Sequence[Killed]) -> list[JobId]:
    """Return the jobs that started again without a kill before that for each time. All come in order."""
    found = []
    for job, runs in starts.items():
        faults = [kill.time for kill in kills if job in kill.in_flight]
        for number, run in enumerate(runs[1:], 1):
            if sum(fault <= run.time for fault in faults) < number:
                found.append(job)
                break
    return sorted(found)
