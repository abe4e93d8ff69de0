"""``garivini doctor``."""

import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Final

import click

from garivini.cli.doctor import gearmand, sql
from garivini.cli.doctor.finding import Finding
from garivini.cli.options import databases, job_servers, output, plain, print_json, tls
from garivini.cli.tls import PATIENCE, explain
from garivini.errors import GariviniError, RefusedError
from garivini.gearman.admin import FunctionStatus
from garivini.gearman.blocking import Client
from garivini.gearman.servers import parse_addresses
from garivini.job import NEVER, WAKE, State
from garivini.store.database import Database
from garivini.store.shards import Shards

#: Seconds by which this machine's clock may differ from a database's before that is worth a word.
_CLOCK: Final = 5.0
#: Seconds for which a due job may wait before that is worth a word.
_PATIENCE: Final = 60
_MARKS: Final = {"ok": "ok    ", "advice": "advice", "fault": "FAULT "}


@click.command()
@databases
@job_servers
@tls
@output
def doctor(dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None, output: str) -> None:
    """Grade a set-up and say what to change.

    Looks at the databases (version, durability, privileges, tables, ids), at the Gearman servers (version,
    how they were started, as far as that shows) and at both together (jobs that are due and have no worker).
    It writes one job and takes it back in the same transaction.

    \b
    Exit status:
      0  no fault
      1  a fault: jobs can be lost, or do not run

    \b
    Examples:
      garivini doctor
      garivini doctor -o json
    """
    findings = list(_examine(dbs, job_servers, tls))
    if output == "table":
        for finding in findings:
            click.echo(f"{_MARKS[finding.grade]}  {plain(finding.subject)}: {plain(finding.says)}")
            if finding.do:
                click.echo(f"        {plain(finding.do)}")
    else:
        print_json(map(asdict, findings), output)
    sys.exit(1 if any(finding.grade == "fault" for finding in findings) else 0)


def _examine(dbs: list[str], addresses: Iterable[str], tls: ssl.SSLContext | None) -> Iterator[Finding]:
    functions: dict[str, FunctionStatus] = {}
    held: list[gearmand.Sent] = []
    for address in parse_addresses(addresses):
        yield from _or_ok(address, _server(address, tls, functions, held), lambda error: explain(error, tls))
    for database in Shards(dbs):
        yield from _or_ok(database.where, _database(database, functions, held))
        database.close()


def _or_ok(
    subject: str, findings: Iterator[Finding], words: Callable[[GariviniError], str] = str
) -> Iterator[Finding]:
    """Yield the findings; where there is none, that all is well; where it cannot be reached, that."""
    well = True
    try:
        for finding in findings:
            well = False
            yield finding
    except GariviniError as error:
        yield Finding("fault", subject, words(error))
    else:
        if well:
            yield Finding("ok", subject, "all as it should be")


def _server(
    address: str,
    tls: ssl.SSLContext | None,
    functions: dict[str, FunctionStatus],
    held: list[gearmand.Sent],
) -> Iterator[Finding]:
    with Client(address, timeout=PATIENCE, tls=tls) as client:
        for name, status in client.functions().items():
            text = name.decode(errors="replace")
            before = functions.get(text, FunctionStatus(0, 0, 0))
            functions[text] = FunctionStatus(*map(sum, zip(before, status, strict=True)))
        try:
            held += gearmand.sent(client.command(b"show unique jobs"))
        except RefusedError:
            yield Finding(
                "advice",
                address,
                "it does not tell the jobs it holds, so that ids which start again go unnoticed",
                "use a newer one",
            )
        (answer,) = client.command(b"getpid", block=False)
        pid = answer.removeprefix(b"OK ").strip()
        words = gearmand.command_line(int(pid)) if pid.isdigit() and _is_here(address) else None
        if words is not None:
            yield from gearmand.grade_start(address, gearmand.options(words))


def _is_here(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]") in ("127.0.0.1", "localhost", "::1")


def _database(
    database: Database, functions: dict[str, FunctionStatus], held: list[gearmand.Sent]
) -> Iterator[Finding]:
    database.check()
    yield from sql.grade(database.dialect, database.where, database.facts())
    before = database.clock()
    next_jobid = database.probe()
    yield from gearmand.grade_ids(database.where, database.dbid, held, next_jobid=next_jobid)
    yield from _clock(database, before)
    yield from _counts(database, functions, before)


def _clock(database: Database, now: float) -> Iterator[Finding]:
    difference = time.time() - now
    side = "behind" if difference > 0 else "ahead of"
    if abs(difference) > _CLOCK:
        yield Finding(
            "advice",
            database.where,
            f"its clock is {abs(difference):.0f} s {side} this machine's",
            "jobs go by the database's clock: let both follow a time server",
        )


def _counts(database: Database, functions: dict[str, FunctionStatus], now: float) -> Iterator[Finding]:
    dead: dict[str, int] = {}
    for count in database.counts():
        if count.state is State.DEAD:
            dead[count.funcname] = count.jobs
        if count.state is not State.WAITING or count.first == NEVER or count.first > now:
            continue
        seconds = int(now) - count.first
        status = functions.get(count.funcname)
        if not (status and status.workers):
            yield Finding(
                "fault",
                database.where,
                f"jobs of {count.funcname} are due and no worker can do it",
                "start one: garivini worker MODULE, or any Gearman worker that registers this name",
            )
        elif seconds > _PATIENCE and not (WAKE in functions and functions[WAKE].workers):
            yield Finding(
                "fault",
                database.where,
                f"a job of {count.funcname} has been due for {seconds} s and no QueueRunner is there",
                "start one: garivini run queue-runner",
            )
    for funcname, jobs in dead.items():
        yield Finding(
            "advice",
            database.where,
            f"{jobs} jobs of {funcname} are dead",
            f"look: garivini jobs list --state dead --function {funcname}; then retry or delete them",
        )
