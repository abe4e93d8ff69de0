"""The schedules of a database, and the jobs of their ticks."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec
from msgspec.structs import asdict

from garivini.errors import ConflictError, UsageError
from garivini.model.limits import PRIORITIES
from garivini.model.schedule import RETIRED, SETTINGS, Schedule, StoredSchedule, changed, check_name, plan
from garivini.model.state import State
from garivini.store import inserts
from garivini.store.chunks import CHUNK
from garivini.store.statements import Statements

#: The first columns of a schedule's row.
_COLUMNS: Final = (
    *("name", "funcname", "arg", "cron", "every", "zone", "flag", "priority", "missed", "missed_window"),
    *("overlap", "paused", "next_tick", "queued", "last_tick", "last_jobid", "jobs", "skipped"),
    *("declared", "override"),
)
#: Minimum seconds between two records that a process declares a schedule.
_SEEN_AGE: Final = 30
#: The types of the values of a definition, by name.
_TYPES: Final = get_type_hints(Schedule)


class Ticked(NamedTuple):
    """The result of handling the ticks of a schedule."""

    funcname: str
    #: The jobs that were inserted.
    jobids: list[int]
    #: Number of ticks that got no job.
    skipped: int
    #: Seconds since the oldest tick that was due; 0: none was.
    late: int


def schedules(run: Statements) -> list[StoredSchedule]:
    """Return all schedules, by name."""
    return [_stored(row, run.dbid)[0] for row in run("schedules")]


def schedule_rows(run: Statements) -> list[dict[str, Any]]:
    """Return the values of all schedules by the names of ``copy_schedule``."""
    names = [name for name in _COLUMNS if name != "last_jobid"]
    return [{name: row[_COLUMNS.index(name)] for name in names} for row in run("schedules")]


def has_schedule(run: Statements, name: str) -> bool:
    """Whether there is a schedule of this name."""
    return bool(run("has_schedule", name=name))


def due_schedules(run: Statements) -> list[str]:
    """Return the names of the schedules that ``tick`` is to be called for."""
    return [name for (name,) in run("due_schedules", age=RETIRED)]


def until_tick(run: Statements) -> float | None:
    """Return the seconds until the first tick that is not due yet; None: there is none."""
    ((seconds,),) = run("until_tick", age=RETIRED)
    return None if seconds is None else float(seconds)


def tick(run: Statements, name: str) -> Ticked | None:
    """Insert the jobs of the ticks of a schedule that are due, and move it on.

    This happens as a whole or not at all, so each tick gets its job once, however many schedulers there are.

    Returns:
        The result; None: there was nothing to do, or another scheduler is doing it.

    Raises:
        UsageError: a value of the schedule is wrong.
        ConflictError: another scheduler was faster.

    """
    rows = run("take_schedule", name=name)
    if not rows:
        return None
    stored, now = _stored(rows[0], run.dbid)
    if stored.paused or stored.retired:
        return None
    schedule = stored.definition
    decided = plan(schedule, stored.next_tick, stored.queued, now=now, live=_is_live(run, stored))
    if decided is None:
        return None
    jobids = _insert(run, schedule, len(decided.inserts))
    _move(
        run,
        stored,
        next_tick=decided.next_tick,
        queued=decided.queued,
        last_tick=decided.inserts[-1] if jobids else None,
        jobids=jobids,
        skipped=decided.skipped,
    )
    late = 0 if stored.next_tick is None else max(0, now - stored.next_tick)
    return Ticked(schedule.funcname, jobids, decided.skipped, late)


def run_schedule(run: Statements, name: str) -> int:
    """Insert a job of a schedule now, even if that is paused; return the job's id. The ticks do not change.

    Raises:
        UsageError: there is no such schedule, or a value of it is wrong.
        ConflictError: the previous job is live, and the schedule does not allow an overlap.

    """
    stored, now = _locked(run, name)
    schedule = stored.definition
    if schedule.overlap != "allow" and _is_live(run, stored):
        raise ConflictError(
            f"job {stored.dbid}:{stored.last_jobid} of schedule {name!r} has not ended, and its overlap is "
            f"{schedule.overlap}"
        )
    jobids = _insert(run, schedule, 1)
    _move(
        run,
        stored,
        next_tick=stored.next_tick,
        queued=stored.queued,
        last_tick=now,
        jobids=jobids,
        skipped=0,
    )
    return jobids[0]


def set_schedule(run: Statements, name: str, given: Mapping[str, Any]) -> None:
    """Create a schedule, or change those values of it that are given by name.

    If this changes the times of the ticks, the next tick is the first one after now. Jobs that were inserted
    before, and a queued tick, stay.

    Raises:
        UsageError: a value is wrong, or the function of a new schedule is missing.

    """
    stored, now = _find(run, check_name(name))
    definition = changed({} if stored is None else stored.values, given)
    _write(
        run, name, stored, definition, now, override=_joined({} if stored is None else stored.override, given)
    )


def declare_schedule(run: Statements, name: str, definition: Schedule) -> None:
    """Create a schedule as code has declared it, or change those values that no operator has set.

    The next tick and the jobs of the schedule are treated as by ``set_schedule``.

    Raises:
        UsageError: the name is not valid.

    """
    stored, now = _find(run, check_name(name))
    declared = asdict(definition)
    override = {} if stored is None else stored.override
    _write(run, name, stored, changed(declared, override), now, declared=declared)


def see_schedules(run: Statements, names: Sequence[str]) -> None:
    """Record that a process declares these schedules, so that they are not retired."""
    for start in range(0, len(names), CHUNK):
        run("see_schedules", names=sorted(names)[start : start + CHUNK], age=_SEEN_AGE)


def reset_schedule(run: Statements, name: str) -> None:
    """Remove the values that an operator has set, so that those that code has declared apply.

    Raises:
        UsageError: there is no such schedule, or no code has declared it.

    """
    stored, now = _locked(run, name)
    if stored.declared is None:
        raise UsageError(f"schedule {name!r} was not declared by code: change or remove it")
    _write(run, name, stored, changed({}, stored.declared), now, override={})


def pause_schedule(run: Statements, name: str) -> None:
    """Let a schedule insert no jobs. A tick that waits for the end of a job goes on waiting.

    Raises:
        UsageError: there is no such schedule.

    """
    stored, _ = _locked(run, name)
    run("pause_schedule", name=name, paused=1, next_tick=stored.next_tick)


def resume_schedule(run: Statements, name: str) -> None:
    """Undo a pause. The next tick is the first one after now: ticks during the pause get no job.

    Raises:
        UsageError: there is no such schedule, or a value of it is wrong.

    """
    stored, now = _locked(run, name)
    if stored.paused:
        run("pause_schedule", name=name, paused=0, next_tick=stored.definition.next_tick(now))


def remove_schedule(run: Statements, name: str) -> None:
    """Delete a schedule. Jobs that it has inserted stay.

    Raises:
        UsageError: there is no such schedule.

    """
    _locked(run, name)
    run("remove_schedule", name=name)


def _find(run: Statements, name: str) -> tuple[StoredSchedule | None, int]:
    """Lock a schedule; return it, or None if it does not exist, and the time."""
    if rows := run("lock_schedule", name=name):
        return _stored(rows[0], run.dbid)
    return None, int(run("clock")[0][0] + 0.001)  # SQLite's clock may be wrong by half a millisecond


def _locked(run: Statements, name: str) -> tuple[StoredSchedule, int]:
    """Lock a schedule that exists; return it and the time."""
    stored, now = _find(run, name)
    if stored is None:
        raise UsageError(f"there is no schedule {name!r:.250} in {run.where}")
    return stored, now


def _write(
    run: Statements,
    name: str,
    stored: StoredSchedule | None,
    definition: Schedule,
    now: int,
    *,
    declared: Mapping[str, Any] | None = None,
    override: Mapping[str, Any] | None = None,
) -> None:
    """Write a definition. If ``declared`` or ``override`` is None, its stored value does not change."""
    times = (definition.cron, definition.every, definition.zone)
    if stored is not None and times == (stored.cron, stored.every, stored.zone):
        next_tick = stored.next_tick
    else:
        next_tick = definition.next_tick(now)
    if stored is not None:
        declared = stored.declared if declared is None else declared
        override = stored.override if override is None else override
    values = {**asdict(definition), "priority": PRIORITIES.index(definition.priority)}
    run(
        "write_schedule",
        name=name,
        **values,
        next_tick=next_tick,
        declared=None if declared is None else msgspec.json.encode(declared).decode(),
        override=msgspec.json.encode(override).decode() if override else None,
    )


def _joined(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that an operator has set. One of ``cron`` and ``every`` replaces the other."""
    left = {"cron", "every"} if {"cron", "every"} & given.keys() else set()
    return {**{name: value for name, value in before.items() if name not in left}, **given}


def _insert(run: Statements, schedule: Schedule, count: int) -> list[int]:
    """Insert jobs of a schedule; return their ids."""
    found = inserts.insert(run, [schedule.job] * count, [len(schedule.arg)] * count) if count else []
    return [inserted.jobid for inserted in found]


def _move(
    run: Statements,
    stored: StoredSchedule,
    *,
    next_tick: int | None,
    queued: int | None,
    last_tick: int | None,
    jobids: Sequence[int],
    skipped: int,
) -> None:
    """Move a schedule on, if its next tick is as it was read."""
    moved = run(
        "move_schedule",
        name=stored.name,
        tick=stored.next_tick,
        next_tick=next_tick,
        queued=queued,
        last_tick=last_tick,
        last_jobid=jobids[-1] if jobids else None,
        jobs=len(jobids),
        skipped=skipped,
    )
    # Each move changes the row, so every database counts it as changed. The row's lock prevents a conflict,
    # except between nodes of a cluster.
    if moved != 1:
        raise ConflictError(f"{run.where}: another scheduler has handled schedule {stored.name!r}")


def _is_live(run: Statements, stored: StoredSchedule) -> bool:
    """Whether the previous job of a schedule is live. A dead job does not hold up the next one."""
    if stored.last_jobid is None:
        return False
    return any(state != State.DEAD for _, state in run("states", jobids=[stored.last_jobid]))


def _stored(row: Sequence[Any], dbid: int) -> tuple[StoredSchedule, int]:
    """Return the schedule of a row, and the time."""
    *values, now, seen = row
    given = dict(zip(_COLUMNS, values, strict=True))
    priority, declared = given["priority"], given["declared"]
    given.update(
        arg=given["arg"] or b"",
        priority=PRIORITIES[priority] if 0 <= priority < len(PRIORITIES) else str(priority),
        paused=bool(given["paused"]),
        declared=None if declared is None else _decode(declared),
        override=_decode(given["override"]),
    )
    retired = declared is not None and (seen is None or now - seen >= RETIRED)
    return StoredSchedule(dbid=dbid, retired=retired, **given), now


def _decode(text: str | None) -> dict[str, Any]:
    """Return the values in a stored text, without those whose name is unknown or whose type is wrong."""
    try:
        found = msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    decoded = {}
    for name in found.keys() & set(SETTINGS):
        with suppress(msgspec.ValidationError):
            decoded[name] = msgspec.convert(found[name], _TYPES[name])
    return decoded
