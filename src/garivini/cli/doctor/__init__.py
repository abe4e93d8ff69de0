"""``garivini doctor``."""

import shlex
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Final

import click

from garivini.cli.doctor import gearmand, sql
from garivini.cli.doctor.finding import Finding
from garivini.cli.options import databases, job_servers, output, tls
from garivini.cli.output import Form, number, print_json, say, visible
from garivini.cli.survey import MAX_AGE, problems, survey
from garivini.cli.tls import PATIENCE, explain
from garivini.errors import GariviniError, ProtocolError, RefusedError
from garivini.gearman.blocking import Client
from garivini.model.state import State
from garivini.store.database import Database
from garivini.store.schema import SCHEMA
from garivini.store.shards import Shards

#: Maximum seconds by which the clocks of this machine and a database may differ without advice.
_CLOCK: Final = 5.0
_MARKS: Final = {"ok": "ok    ", "advice": "advice", "fault": "FAULT "}


@click.command()
@databases
@job_servers
@tls
@output
def doctor(dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None, output: Form) -> None:
    """Examine an installation and recommend changes.

    It examines the databases (version, durability, privileges, tables, ids), the Gearman servers (version,
    and if they run here their options), and both together (due jobs without a worker). It inserts one job
    into each database that accepts jobs, and rolls the transaction back.

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
            says = visible(f"{finding.subject}: {finding.says}")
            say(f"{_MARKS[finding.grade]}  {says}")
            if finding.do:
                say(f"        {visible(finding.do)}")
    else:
        print_json(map(asdict, findings), output)
    sys.exit(1 if any(finding.grade == "fault" for finding in findings) else 0)


def _examine(dbs: list[str], addresses: Iterable[str], tls: ssl.SSLContext | None) -> Iterator[Finding]:
    stores, servers = survey(dbs, addresses, tls)
    # These are the faults that ``garivini health`` reports, so that both commands agree.
    found: dict[str, list[Finding]] = {}
    for problem in problems(stores, servers, max_age=MAX_AGE):
        finding = Finding("fault", problem.subject, problem.says, problem.do)
        found.setdefault(problem.subject, []).append(finding)
    held: list[gearmand.Sent] = []
    for server in servers:
        deeper = iter(()) if server.error else _server(server.name, tls, held)
        yield from _or_ok(server.name, found, deeper, lambda error: explain(error, tls))
    for database, store in zip(Shards(dbs), stores, strict=True):
        deeper = iter(()) if store.error else _database(database, held)
        yield from _or_ok(store.name, found, deeper)
        database.close()


def _or_ok(
    subject: str,
    found: dict[str, list[Finding]],
    deeper: Iterator[Finding],
    words: Callable[[GariviniError], str] = str,
) -> Iterator[Finding]:
    """Yield the given findings and those of deeper checks; if there are none, a finding that all is well."""
    findings = found.get(subject, [])
    well = not findings
    yield from findings
    try:
        for finding in deeper:
            well = well and finding.grade == "ok"
            yield finding
    except GariviniError as error:
        yield Finding("fault", subject, words(error))
    else:
        if well:
            yield Finding("ok", subject, "all as it should be")


def _server(address: str, tls: ssl.SSLContext | None, held: list[gearmand.Sent]) -> Iterator[Finding]:
    with Client(address, timeout=PATIENCE, tls=tls) as client:
        try:
            held += gearmand.sent(client.command(b"show unique jobs"))
        except RefusedError:
            yield Finding(
                "advice",
                address,
                "it does not list its jobs, so ids that start again cannot be noticed",
                "use a newer version",
            )
        with suppress(RefusedError, ProtocolError):  # a server may list no workers, or in another form
            yield from gearmand.grade_versions(address, client.workers())
        (answer,) = client.command(b"getpid", block=False)
        pid = answer.removeprefix(b"OK ").strip()
        words = gearmand.command_line(int(pid)) if pid.isdigit() and _is_here(address) else None
        if words is not None:
            yield from gearmand.grade_start(address, gearmand.options(words))


def _is_here(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]") in ("127.0.0.1", "localhost", "::1")


def _database(database: Database, held: list[gearmand.Sent]) -> Iterator[Finding]:
    yield from _schema(database)
    facts = database.facts()
    yield from sql.grade(database.dialect, database.where, facts)
    yield from sql.unseen(database.where, facts)
    yield from sql.grade_nodes(database.where, database.nodes())
    yield from _clock(database, database.clock())
    if sql.takes_writes(facts):
        next_jobid = database.probe()
        yield from gearmand.grade_ids(database.where, database.dbid, held, next_jobid=next_jobid)
    yield from _idle(database)


def _schema(database: Database) -> Iterator[Finding]:
    revision = database.check()
    if revision != SCHEMA:
        yield Finding(
            "advice",
            database.where,
            f"its schema {revision} is newer than {SCHEMA}, that of this version",
            "finish the upgrade: update garivini here too",
        )


def _clock(database: Database, now: float) -> Iterator[Finding]:
    difference = time.time() - now
    side = "behind" if difference > 0 else "ahead of"
    if abs(difference) > _CLOCK:
        yield Finding(
            "advice",
            database.where,
            f"its clock is {abs(difference):.0f} s {side} this machine's",
            "jobs use the clock of the database: synchronise both with a time server",
        )


def _idle(database: Database) -> Iterator[Finding]:
    """Yield findings of jobs that no program of this version will run."""
    for count in database.counts():
        verb = "is" if count.jobs == 1 else "are"
        if not count.state.known:
            yield Finding(
                "advice",
                database.where,
                f"{number(count.jobs, 'job')} of {count.funcname} {verb} in state {count.state.name}, which "
                "this version does not know",
                "programs of a newer version run them; if there are none, another program has written them",
            )
        elif count.state is State.DEAD:
            name = shlex.quote(count.funcname)
            yield Finding(
                "advice",
                database.where,
                f"{number(count.jobs, 'job')} of {count.funcname} {verb} dead",
                f"check: garivini jobs list --state dead --function {name}; then retry or delete them",
            )
