"""How a gearmand was started, as far as that shows, and what it holds; graded without I/O."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from garivini.cli.doctor.finding import Finding

#: How to start gearmand; docs/how-to/run-under-systemd.md says why.
ADVISED: Final = (
    "--listen=127.0.0.1 --job-retries=3 --round-robin --threads=1 --hashtable-buckets=100003 "
    "--keepalive --keepalive-idle=60 --keepalive-interval=10 --keepalive-count=3"
)
_SHORT: Final = {"-j": "--job-retries", "-R": "--round-robin", "-t": "--threads", "-L": "--listen"}
_LOOPBACK: Final = ("localhost", "127.", "::1")


def command_line(pid: int) -> list[str] | None:
    """Return the words that a process of this machine was started with; None: that cannot be seen."""
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


def grade_start(subject: str, given: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is to be changed in how gearmand was started."""
    start = f"start it with {ADVISED}"
    retries = given.get("--job-retries", "0")
    if not retries.isdigit() or not int(retries):
        yield Finding(
            "fault",
            subject,
            "no --job-retries: a job that kills its worker goes from one to the next for ever",
            start,
        )
    if not given.get("--listen", "").startswith(_LOOPBACK):
        yield Finding(
            "advice",
            subject,
            "it may listen on every network, and has no authentication: who reaches it can run any function",
            "give --listen with the address of a private network, or 127.0.0.1",
        )
    if "--round-robin" not in given:
        yield Finding(
            "advice", subject, "no --round-robin: one function's jobs keep another's workers busy", start
        )
    buckets = given.get("--hashtable-buckets", "991")
    if buckets.isdigit() and int(buckets) < 10_000:
        yield Finding(
            "advice",
            subject,
            f"--hashtable-buckets is {buckets}: slow from some ten thousand jobs on",
            start,
        )
    if "--keepalive" not in given:
        yield Finding(
            "advice", subject, "no --keepalive: a worker's lost machine is noticed after two hours", start
        )
    if given.get("--queue-type") or given.get("-q"):
        yield Finding(
            "advice",
            subject,
            "it keeps a queue of its own beside the database",
            "leave out --queue-type: a job would be kept twice, and more slowly",
        )


class Sent(NamedTuple):
    """An attempt that a server holds: what its unique says."""

    dbid: int
    jobid: int
    attempt: int


def sent(uniques: Collection[bytes]) -> list[Sent]:
    """Return those of these uniques that are attempts of jobs."""
    found = []
    for unique in uniques:
        parts = unique.split(b":")
        if len(parts) == 3 and all(part.isdigit() for part in parts):
            found.append(Sent(*map(int, parts)))
    return found


def grade_ids(subject: str, dbid: int, held: Collection[Sent], *, next_jobid: int) -> Iterator[Finding]:
    """Yield a fault where a server holds jobs that the database will yet give out."""
    ahead = [one for one in held if one.dbid == dbid and one.jobid >= next_jobid]
    if ahead:
        yield Finding(
            "fault",
            subject,
            f"ids start again: Gearman holds {len(ahead)} of its jobs from id {min(ahead)[1]} on, "
            f"and the next insert gets {next_jobid}. Was it restored from a backup? A late worker would "
            "delete a new job",
            "stop inserts, raise the table's counter above "
            f"{max(one.jobid for one in ahead)}: docs/how-to/restore.md",
        )
