"""The table of events: the name of each, its level, fields and meaning, and how often it may be emitted.

A test compares it with each ``emit`` in the source, and with ``docs/reference/events.md``.
"""

from collections.abc import Mapping
from logging import DEBUG, INFO, WARNING
from typing import Final, NamedTuple


class Limit(NamedTuple):
    """The limit of an event that wrong input can cause in any number."""

    #: Maximum events per reason and interval.
    maximum: int
    #: The fields whose values form the reason.
    reason: tuple[str, ...]


class EventType(NamedTuple):
    """A kind of event."""

    #: A level of the module ``logging``: WARNING if an operator should see the event.
    level: int
    fields: tuple[str, ...]
    #: When the event is emitted, in Markdown.
    meaning: str
    limit: Limit | None = None
    #: Fields of a second form of the event, which has only these fields; empty if there is no second form.
    short: tuple[str, ...] = ()
    #: Fields that the log leaves out: lists with a number per job.
    unlogged: tuple[str, ...] = ()


#: Fields of the events of a setback.
SETBACK_FIELDS: Final = ("kind", "jobid", "dbid", "attempt", "error", "message", "failcount", "seconds")

#: The types of events by the sections of the reference.
SECTIONS: Final[Mapping[str, Mapping[str, EventType]]] = {
    "Jobs": {
        "jobs.started": EventType(
            DEBUG,
            ("dbid", "function", "jobs", "wait_sum", "wait_max", "waits"),
            "jobs of one function have started",
            unlogged=("waits",),
        ),
        "jobs.ended": EventType(
            DEBUG,
            ("dbid", "function", "outcome", "jobs", "run_sum", "run_max", "runs"),
            "their outcome was committed",
            unlogged=("runs",),
        ),
        "job.failed": EventType(
            WARNING, SETBACK_FIELDS, "an attempt failed; the job runs again after `seconds`"
        ),
        "job.dead": EventType(
            WARNING,
            SETBACK_FIELDS,
            "a job is dead: too many failures or crashes, discarded, cancelled, parked",
            limit=Limit(100, ("kind", "error")),
        ),
        "job.rescheduled": EventType(
            DEBUG, SETBACK_FIELDS, "a job runs again at another time; this is not a failure"
        ),
        "job.crashed": EventType(
            WARNING, SETBACK_FIELDS, "the process of a job died; a server gave the job to another worker"
        ),
        "job.repeated": EventType(
            DEBUG, SETBACK_FIELDS, "an attempt reported its outcome a second time; nothing changed"
        ),
        "job.stale": EventType(
            WARNING,
            SETBACK_FIELDS,
            "a superseded attempt: its copy or outcome was dropped",
            limit=Limit(100, ("kind",)),
            short=("jobid", "dbid", "attempt"),
        ),
        "job.completed_before": EventType(
            DEBUG, ("jobid", "dbid"), "a job succeeded whose row was already deleted"
        ),
        "job.dropped": EventType(
            WARNING,
            ("function", "error"),
            "a worker received a payload that is not a job of its databases",
            limit=Limit(5, ("function", "error")),
        ),
        "outcomes.put_aside": EventType(
            WARNING, ("dbid", "outcomes", "error"), "outcomes are locked or refused, and were deferred"
        ),
        "outcomes.unrecognised": EventType(
            WARNING,
            ("dbid", "outcomes"),
            "dropped: after a failover, their rows may be other jobs'",
        ),
        "outcome.reduced": EventType(
            WARNING, ("dbid", "jobid", "attempt", "error"), "a text was stored in ASCII or left out"
        ),
        "outcome.dropped": EventType(
            WARNING, ("dbid", "jobid", "attempt", "error"), "an outcome cannot be stored; the job runs again"
        ),
        "job.overdue": EventType(
            WARNING, ("jobid", "seconds"), "a `def` exceeded `timeout` or `cancel_grace`, unsupervised"
        ),
    },
    "Dispatch": {
        "jobs.dispatched": EventType(
            DEBUG, ("dbid", "jobs"), "a batch was submitted, by a QueueRunner or an insert"
        ),
        "jobs.released": EventType(
            DEBUG, ("dbid", "jobs", "reason"), "claimed jobs could not be submitted, and wait again"
        ),
        "jobs.unknown": EventType(
            DEBUG, ("dbid", "jobs"), "the connection was lost before the server acknowledged these jobs"
        ),
        "jobs.lost": EventType(
            DEBUG, ("dbid", "jobs"), "orphans: no server knows these jobs, so their leases expire now"
        ),
        "jobs.given_back": EventType(
            DEBUG, ("jobs",), "a worker gave back jobs that it could not start soon"
        ),
        "jobs.returned": EventType(
            DEBUG, ("dbid", "jobs"), "a Controller could not run these jobs, or their calls had no outcome"
        ),
        "calls.lost": EventType(
            WARNING,
            ("function", "calls", "reason"),
            "calls ended with a connection, or were refused; not a failure",
        ),
        "call.cancelled": EventType(
            WARNING,
            ("function", "seconds"),
            "no worker started a call in time, or its job was cancelled",
        ),
        "reports.dropped": EventType(
            WARNING,
            ("dbid", "reports", "error"),
            "reports of running jobs could not be stored",
            limit=Limit(5, ("dbid", "error")),
        ),
        "jobs.pruned": EventType(
            INFO, ("dbid", "kept", "dead"), "kept jobs and dead jobs were deleted: their retention is over"
        ),
        "lease.expired": EventType(
            DEBUG,
            ("jobid", "attempt", "found", "step"),
            "a lease expired: the servers' answer, and the decision",
        ),
        "database.several_nodes": EventType(
            WARNING,
            ("dbid", "nodes"),
            "connections reach several nodes of a Galera cluster",
        ),
        "dispatch.failed": EventType(
            WARNING, ("dbid", "error"), "jobs could not be submitted, released, parked or deleted"
        ),
        "functions.inexact": EventType(
            WARNING,
            ("dbid", "functions"),
            "QueueRunners of the original may ignore declared rules",
        ),
    },
    "Schedules": {
        "schedule.ticked": EventType(
            DEBUG,
            ("dbid", "schedule", "function", "jobs", "skipped", "late"),
            "due ticks were handled",
        ),
        "schedules.undeclared": EventType(
            WARNING, ("error",), "a worker could not declare its schedules; tried again within a minute"
        ),
        "schedule.failed": EventType(
            WARNING,
            ("dbid", "schedule", "error"),
            "a tick could not be handled; tried again within a minute",
        ),
        "outbox.moved": EventType(
            DEBUG, ("dbid", "target", "jobs"), "follow-ups were moved to their home, another database"
        ),
        "outbox.failed": EventType(
            WARNING,
            ("dbid", "target", "error"),
            "follow-ups could not be moved; tried again in half a minute",
        ),
    },
    "Injector": {
        "inject.stored": EventType(DEBUG, ("calls", "jobs", "duplicates"), "a batch of calls was committed"),
        "inject.refused": EventType(
            WARNING, ("reason",), "a call was malformed or exceeded a limit", limit=Limit(1, ("reason",))
        ),
        "inject.failed": EventType(
            WARNING,
            ("calls", "error"),
            "the database did not store a batch, or its outcome is unknown",
            limit=Limit(5, ("error",)),
        ),
        "inject.unheard": EventType(
            WARNING, ("calls", "jobs", "keyless"), "stored jobs whose calls could not be answered: see below"
        ),
        "inject.not_dispatched": EventType(
            WARNING, ("dbid", "jobs", "error"), "stored jobs not submitted; their leases bring them back"
        ),
    },
    "Databases": {
        "database.read_only": EventType(
            WARNING,
            ("dbid", "error"),
            "a server takes no writes; connections to it are closed",
        ),
        "database.writable": EventType(INFO, ("dbid",), "after that, a server accepts writes again"),
        "database.replaced": EventType(
            WARNING,
            ("dbid", "before", "incarnation"),
            "another, promoted or restored server answers",
        ),
        "database.ids_restarted": EventType(
            WARNING,
            ("dbid", "jobid", "highest"),
            "a new job has a lower id than an older one",
        ),
    },
    "Gearman": {
        "gearman.connected": EventType(
            INFO, ("server",), "the server has answered a worker, or a QueueRunner's listener for wake-ups"
        ),
        "gearman.lost": EventType(WARNING, ("server",), "such a connection was lost, and is reopened"),
        "gearman.unreachable": EventType(WARNING, ("server", "error"), "a connection failed, and is retried"),
        "gearman.silent": EventType(
            WARNING, ("seconds",), "a server has not answered for `seconds`; the connection is closed"
        ),
        "gearman.rejected": EventType(
            WARNING,
            ("code", "text"),
            "a server answered a worker with an error",
            limit=Limit(5, ("code", "text")),
        ),
        "gearman.protocol_error": EventType(
            WARNING,
            ("error",),
            "a server violated the protocol; the connection is closed",
            limit=Limit(5, ("error",)),
        ),
        "server.listening": EventType(INFO, ("address",), "the embedded server accepts connections"),
        "server.full": EventType(
            WARNING, ("connections", "reason"), "the embedded server temporarily accepts no more connections"
        ),
        "server.dropped": EventType(
            WARNING, ("peer", "reason"), "a connection was closed: `unread`, `memory` or `silence`"
        ),
    },
    "Processes": {
        "role.started": EventType(INFO, ("role",), "a QueueRunner, a scheduler or an Injector has started"),
        "role.stopped": EventType(INFO, ("role",), "the role has ended"),
        "role.error": EventType(
            WARNING, ("role", "error"), "a pass or a step of a keeper failed; emitted once per cause"
        ),
        "role.recovered": EventType(DEBUG, ("role",), "the role works again"),
        "role.drain_incomplete": EventType(
            WARNING,
            ("role", "left", "seconds"),
            "`left` calls or passes had not ended after `seconds`",
        ),
        "worker.started": EventType(INFO, ("worker", "functions"), "a worker process accepts jobs"),
        "worker.replaced": EventType(
            INFO,
            ("worker", "reason", "jobs"),
            "a new process replaces it: `jobs`, `memory` or `files`",
        ),
        "worker.draining": EventType(INFO, ("worker",), "the process accepts no more jobs"),
        "worker.drain_incomplete": EventType(
            WARNING, ("worker", "jobs", "running"), "jobs outlived `--drain`; other workers get them"
        ),
        "worker.uncancelled": EventType(
            WARNING,
            ("worker", "jobs", "running"),
            "jobs continue although cancelled, without an outcome",
        ),
        "keeper.abandoned": EventType(
            WARNING, ("dbid", "outcomes", "seconds"), "a keeper ended before all outcomes were committed"
        ),
        "worker.stopped": EventType(INFO, ("worker",), "the process has ended"),
        "controller.started": EventType(INFO, ("controller",), "a Controller accepts jobs"),
        "controller.draining": EventType(
            INFO, ("controller", "calls"), "the Controller accepts no more jobs, and waits for its calls"
        ),
        "controller.drain_incomplete": EventType(
            WARNING, ("controller", "calls"), "calls had not ended within `--drain`"
        ),
        "controller.stopped": EventType(INFO, ("controller",), "the Controller has ended"),
        "worker.child_started": EventType(DEBUG, ("pid",), "the parent has started a process"),
        "worker.child_died": EventType(
            WARNING, ("pid", "status"), "a process ended by itself; a negative status is a signal"
        ),
    },
}

#: The types of events by name.
EVENTS: Final[Mapping[str, EventType]] = {
    name: event for section in SECTIONS.values() for name, event in section.items()
}
