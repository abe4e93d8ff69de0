"""Checks of a gearmand: its options, if it runs on this machine, and the ids of its jobs."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from garivini.cli.doctor.finding import Finding
from garivini.gearman.admin import ConnectedWorker
from garivini.roles.role_ids import queue_runner_version
from garivini.submission import WAKE

#: The recommended options of gearmand; docs/how-to/run-under-systemd.md gives the reasons.
ADVISED: Final = (
    "--listen=127.0.0.1 --job-retries=3 --round-robin --threads=1 --hashtable-buckets=100003 "
    "--keepalive --keepalive-idle=60 --keepalive-interval=10 --keepalive-count=3"
)
_SHORT: Final = {"-j": "--job-retries", "-R": "--round-robin", "-t": "--threads", "-L": "--listen"}
_LOOPBACK: Final = ("localhost", "127.", "::1")


def command_line(pid: int) -> list[str] | None:
    """Return the command line of a gearmand on this machine, or None if it cannot be read."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    return words if Path(words[0]).name == "gearmand" else None


def options(words: Sequence[str]) -> dict[str, str]:
    """Return gearmand's options by their long names; a flag's value is empty."""
    found: dict[str, str] = {}
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2:
            name, equals, value = word[:2], "=", word[2:]
        name = _SHORT.get(name, name)
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        found[name] = value
    return found


def grade_versions(subject: str, connected: Iterable[ConnectedWorker]) -> Iterator[Finding]:
    """Yield advice if QueueRunners of different versions are connected to a Gearman server."""
    ids = {worker.client_id for worker in connected if WAKE.encode() in worker.functions}
    versions = {queue_runner_version(client_id) or "one that does not report it" for client_id in ids}
    if len(versions) > 1:
        yield Finding(
            "advice",
            subject,
            f"QueueRunners of different versions are connected: {', '.join(sorted(versions))}. "
            "An older one may not keep rules that a newer one knows",
            "finish the upgrade: stop the QueueRunners of the older version",
        )


def grade_start(subject: str, given: Mapping[str, str]) -> Iterator[Finding]:
    """Yield recommended changes of gearmand's options."""
    start = f"start it with {ADVISED}"
    retries = given.get("--job-retries", "0")
    if not retries.isdigit() or not int(retries):
        yield Finding(
            "fault",
            subject,
            "no --job-retries: a job that kills its worker is given to the next worker for ever",
            start,
        )
    if not given.get("--listen", "").startswith(_LOOPBACK):
        yield Finding(
            "advice",
            subject,
            "it may listen on every network, without authentication: any peer can run any function",
            "give --listen with the address of a private network, or 127.0.0.1",
        )
    yield from _grade_queues(subject, given, start)
    if "--keepalive" not in given:
        yield Finding(
            "advice",
            subject,
            "no --keepalive: the loss of a worker's machine is noticed only after two hours",
            start,
        )


def _grade_queues(subject: str, given: Mapping[str, str], start: str) -> Iterator[Finding]:
    if "--round-robin" not in given:
        yield Finding(
            "advice", subject, "no --round-robin: one function's jobs keep another's workers busy", start
        )
    buckets = given.get("--hashtable-buckets", "991")
    if buckets.isdigit() and int(buckets) < 10_000:
        yield Finding(
            "advice",
            subject,
            f"--hashtable-buckets is {buckets}: slow with more than about ten thousand jobs",
            start,
        )
    if given.get("--queue-type") or given.get("-q"):
        yield Finding(
            "advice",
            subject,
            "it stores its own queue beside the database",
            "omit --queue-type: it stores each job twice, which is slower",
        )


class Sent(NamedTuple):
    """An attempt of which a Gearman server has the copy, read from the copy's unique."""

    dbid: int
    jobid: int
    attempt: int


def sent(uniques: Collection[bytes]) -> list[Sent]:
    """Return the attempts that these uniques name. Uniques of another form are skipped."""
    found = []
    for unique in uniques:
        parts = unique.split(b":")
        if len(parts) == 3 and all(part.isdigit() for part in parts):
            found.append(Sent(*map(int, parts)))
    return found


def grade_ids(subject: str, dbid: int, held: Collection[Sent], *, next_jobid: int) -> Iterator[Finding]:
    """Yield a fault if a server has jobs with ids that the database will assign to new jobs."""
    ahead = [one for one in held if one.dbid == dbid and one.jobid >= next_jobid]
    if ahead:
        yield Finding(
            "fault",
            subject,
            f"ids start again: Gearman has {len(ahead)} of its jobs from id {min(ahead)[1]} on, "
            f"and the next insert gets {next_jobid}. Was it restored from a backup? A late worker would "
            "delete a new job",
            "stop inserts, raise the table's counter above "
            f"{max(one.jobid for one in ahead)}: docs/how-to/restore.md",
        )
