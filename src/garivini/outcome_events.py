"""Emits the events of deliveries and setbacks, such as ``jobs.dispatched`` and ``job.failed``."""

from typing import assert_never

from garivini import events
from garivini.model.outcome import Setback, Settled
from garivini.model.state import State
from garivini.submission import Delivery


def emit_settled(setback: Setback, settled: Settled) -> None:
    """Emit the event of a setback, according to the result of settling it."""
    events.emit(
        _event_of(setback, settled),
        kind=setback.kind,
        jobid=setback.handle.jobid,
        dbid=setback.handle.dbid,
        attempt=setback.handle.attempt,
        error=setback.error,
        message=setback.message[:200],
        failcount=settled.failcount,
        seconds=settled.delay,
    )


def emit_delivery(dbid: int, delivery: Delivery) -> None:
    """Emit the events of a submitted batch: one for each kind of result that its jobs have."""
    if delivery.delivered:
        events.emit("jobs.dispatched", dbid=dbid, jobs=delivery.delivered)
    if delivery.unsent:
        events.emit("jobs.released", dbid=dbid, jobs=len(delivery.unsent), reason=delivery.reason)
    if delivery.unknown:
        events.emit("jobs.unknown", dbid=dbid, jobs=len(delivery.unknown))


def _event_of(setback: Setback, settled: Settled) -> str:
    """Return the name of the event of a settled setback."""
    match settled.result:
        case "applied":
            if settled.state is State.DEAD:
                return "job.dead"
        case "repeated":
            return "job.repeated"
        case "stale" | "gone" | "locked":
            return "job.stale"
        case _:
            assert_never(settled.result)
    match setback.kind:
        case "failed":
            return "job.failed"
        case "rescheduled":
            return "job.rescheduled"
        case "crashed":
            return "job.crashed"
        case "discarded" | "parked" | "cancelled":
            return "job.dead"
        case _:
            assert_never(setback.kind)
