"""Imports the jobs of gearmand's and TheSchwartz's tables, each once, also if an import is interrupted.

A page is stored in the target first, with a note of the id of each job, and then deleted from the source. If
the import stops in between, the next one finds the notes and only deletes the rows. The notes are in the
table ``arrived``, and are forgotten after ``outbox.KEPT`` seconds.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from garivini.errors import UsageError
from garivini.model.inserted import Inserted
from garivini.model.limits import NEVER, PRIORITIES
from garivini.store.calls import in_transaction
from garivini.store.database import Database
from garivini.store.foreign_queues import START, ForeignQueue, ForeignRow, Key
from garivini.store.homes import home_of
from garivini.store.inserts import insert, live
from garivini.store.outbox import note_arrivals
from garivini.store.shards import Shards
from garivini.store.statements import Statements

#: The largest number in the column ``job.failcount``.
_MAX_FAILCOUNT: Final = 255


def import_jobs(source: ForeignQueue, shards: Shards, *, dry_run: bool) -> Iterator[list[ForeignRow]]:
    """Import the jobs of another queue; yield each page, with the reason of each row that stays.

    Args:
        source: the other queue. Its programs must not run.
        shards: the databases that get the jobs.
        dry_run: whether to read only. Then keys that exist in the target are not found.

    Raises:
        UsageError: the source has not the expected tables.
        ConflictError: another process imports from this source.
        GariviniError: a database does not answer. The next call imports what is left.

    """
    databases = {database.dbid: database for database in shards}
    source.check(databases.values())
    clock = next(iter(shards)).clock
    if not dry_run:
        source.begin()
    after = START
    while True:
        if dry_run:
            page = source.read(after, clock())
        else:
            page = source.move(after, clock(), lambda jobs: _receive(databases, jobs))
        if page is None:
            break
        after = page.after
        yield page.rows
    if not dry_run:
        source.finish()


def _receive(databases: Mapping[int, Database], arriving: Mapping[str, ForeignRow]) -> dict[Key, str]:
    """Store jobs in their homes, which are the same if this is repeated; return why some were not stored."""
    homes: dict[int, dict[str, ForeignRow]] = {}
    for id_, row in arriving.items():
        assert row.job is not None
        home = home_of(databases.keys(), row.job.funcname, row.job.uniqkey or id_)
        homes.setdefault(home, {})[id_] = row
    refused: dict[Key, str] = {}
    for home, part in homes.items():
        _receive_in(databases[home], part, refused)
    return refused


def _receive_in(database: Database, arriving: Mapping[str, ForeignRow], refused: dict[Key, str]) -> None:
    """Store jobs in one database; add the reasons why some were not stored."""
    while arriving:
        try:
            _store(database, arriving)
        except _Taken as taken:
            # That transaction was rolled back: repeat it without these jobs.
            refused.update(taken.reasons)
            arriving = {id_: row for id_, row in arriving.items() if row.key not in taken.reasons}
            continue
        except UsageError as error:  # the database cannot store a value: find the job
            rows = list(arriving.items())
            if len(rows) == 1:
                refused[rows[0][1].key] = str(error)
                return
            half = len(rows) // 2
            _receive_in(database, dict(rows[:half]), refused)
            _receive_in(database, dict(rows[half:]), refused)
        return


class _Taken(Exception):
    """Jobs have the keys of existing jobs."""

    def __init__(self, reasons: dict[Key, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


def _insert(run: Statements, arriving: Mapping[str, ForeignRow]) -> None:
    """Insert those jobs that have not arrived before.

    Raises:
        _Taken: some have the keys of existing jobs.

    """
    mine = note_arrivals(run, arriving)
    rows = [row for id_, row in arriving.items() if id_ in mine]
    taken: dict[Key, Inserted] = {}
    plain: list[ForeignRow] = []
    for row in rows:
        # A table of the original may treat keys as equal that differ in their bytes.
        if (row.failures or run.dialect.folding) and (found := _holder(run, row)) is not None:
            taken[row.key] = found
        elif row.failures:
            _insert_failed(run, row)
        else:
            plain.append(row)
    jobs = [row.job for row in plain if row.job is not None]
    answers = insert(run, jobs, [len(job.arg) for job in jobs]) if jobs else []
    taken.update({row.key: answer for row, answer in zip(plain, answers, strict=True) if not answer.new})
    if taken:
        raise _Taken({key: _reason(found) for key, found in taken.items()})


_store = in_transaction(_insert)


def _reason(holder: Inserted) -> str:
    return f"job {holder.id}{', which is dead,' if holder.dead else ''} has its unique key"


def _holder(run: Statements, row: ForeignRow) -> Inserted | None:
    """Return the job that has the unique key of a row."""
    job = row.job
    assert job is not None
    return None if job.uniqkey is None else live(run, job.funcname, job.uniqkey, exact=False)


def _insert_failed(run: Statements, row: ForeignRow) -> None:
    """Insert a job with its failures."""
    job = row.job
    assert job is not None
    now = int(run("clock")[0][0])
    ((jobid,),) = run(
        "park",
        funcname=job.funcname,
        uniqkey=job.uniqkey,
        coalesce=job.coalesce,
        arg=job.arg,
        flag=job.flag,
        priority=PRIORITIES.index(job.priority),
        failcount=min(row.failures, _MAX_FAILCOUNT),
        crashes=0,
        created=row.created or now,
        attempt=row.failures,
        runs=0,
        partition=None,
        headers=None,
    )
    for attempt, (time, message) in enumerate(row.messages, row.failures - len(row.messages) + 1):
        run(
            "copy_failure",
            jobid=jobid,
            attempt=attempt,
            failed_at=time,
            kind="failed",
            error="",
            message=message,
            trace="",
            worker="",
        )
    run("let_go", jobid=jobid, run_after=min(max(row.run_after, now), NEVER - 1))
