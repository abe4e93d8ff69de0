"""The outbox: follow-ups that have their home in another database than their job: see ``store/homes.py``.

No transaction spans two databases. So the transaction that completes the job stores such a follow-up in the
outbox of the job's database, under a random id. A QueueRunner inserts it into its home, in a transaction that
also notes the id there, and then deletes it from the outbox. A follow-up whose id is noted already is only
deleted, so each is inserted once, however often a move is repeated and however many QueueRunners make it.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from garivini.model.job import NewJob
from garivini.model.limits import PRIORITIES
from garivini.model.new_jobs import new_job
from garivini.model.pacing import BATCH_BYTES
from garivini.model.unique import KeyRule
from garivini.store.inserts import insert
from garivini.store.statements import Statements

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(KeyRule)
#: Maximum follow-ups that are moved together.
_PAGE: Final = 200
#: Seconds for which the ids of follow-ups that have arrived are noted. No move takes that long.
KEPT: Final = 7 * 86400


class Outgoing(NamedTuple):
    """A follow-up in the outbox."""

    id: str
    job: NewJob


def insert_here(run: Statements, jobs: Sequence[NewJob]) -> None:
    """Insert follow-ups of jobs of this database: into the outbox if they belong to another one."""
    own = [job for job in jobs if not job.home]
    if own:
        insert(run, own, [len(job.arg) for job in own])
    for job in jobs if len(own) < len(jobs) else ():
        if job.home:
            run(
                "put_out",
                target=job.home,
                id=secrets.token_hex(16),
                funcname=job.funcname,
                uniqkey=job.uniqkey or "",  # the column is NOT NULL, and new_job reads "" as no key
                coalesce=job.coalesce,
                partition=job.partition,
                headers=job.headers,
                arg=job.arg,
                flag=job.flag,
                priority=PRIORITIES.index(job.priority),
                delay=job.delay + 1 if job.delay else 0,  # due times are rounded down to whole seconds
                expires=job.expires or None,
                rule=None if job.rule is None else _ENCODER.encode(job.rule).decode(),
            )


def targets(run: Statements) -> list[int]:
    """Return the ids of the databases to which follow-ups are to be moved."""
    found: list[int] = []
    while rows := run("next_target", after=found[-1] if found else 0):
        found.append(rows[0][0])
    return found


def outgoing(run: Statements, target: int, after: str = "") -> list[Outgoing]:
    """Return the next follow-ups for a database, in the order of their ids: at most 200, fewer if large."""
    ids: list[str] = []
    total = 0
    for id_, size in run("outbox_sizes", target=target, id=after, limit=_PAGE):
        total += size or 0
        if ids and total > BATCH_BYTES:
            break
        ids.append(id_)
    rows = run("outbox", target=target, ids=ids) if ids else ()
    return sorted(Outgoing(row[0], _job(row)) for row in rows)


def _job(row: Sequence[Any]) -> NewJob:
    _, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, delay, expires, rule = row
    job = new_job(
        funcname,
        arg or b"",
        uniqkey=uniqkey,
        coalesce=coalesce,
        partition=partition,
        flag=flag,
        priority=PRIORITIES[priority],
        delay=delay,
        expires=expires,
        dispatch=False,
    )
    if headers is not None:
        job = replace(job, headers=headers)
    return job if rule is None else replace(job, rule=_parse_rule(rule))


def _parse_rule(text: str) -> KeyRule:
    """Return the rules of a key. A duplicate is no error here: the job that inserted it has ended."""
    rule = _DECODER.decode(text)
    return replace(rule, on_duplicate=None) if rule.on_duplicate == "raise" else rule


def receive(run: Statements, arriving: Sequence[Outgoing]) -> None:
    """Insert follow-ups from the outbox of another database, except for those that have arrived before."""
    mine = note_arrivals(run, [it.id for it in arriving])
    jobs = [it.job for it in arriving if it.id in mine]
    if jobs:
        insert(run, jobs, [len(job.arg) for job in jobs])


def note_arrivals(run: Statements, ids: Iterable[str]) -> set[str]:
    """Note that jobs arrive from elsewhere in this transaction; return the ids that were not noted before."""
    mover = secrets.token_hex(16)
    ids = sorted(ids)
    for id_ in ids:  # in this order, so that two transactions do not wait for each other
        run("arrive", id=id_, mover=mover)
    return {id_ for (id_,) in run("arrivals", ids=ids, mover=mover)}


def leave(run: Statements, target: int, moved: Sequence[Outgoing]) -> None:
    """Delete follow-ups that have arrived."""
    run("leave_outbox", target=target, ids=[it.id for it in moved])


def retarget(run: Statements, target: int, waiting: Mapping[int, Sequence[Outgoing]]) -> None:
    """Send follow-ups for a drained database to others. ``waiting``: by the id of the new database."""
    for home, part in waiting.items():
        run("retarget", target=target, ids=[it.id for it in part], home=home)


def forget_arrivals(run: Statements, limit: int) -> int:
    """Forget up to this number of follow-ups that have arrived long ago; return how many."""
    return int(run("forget_arrivals", age=KEPT, limit=limit))
