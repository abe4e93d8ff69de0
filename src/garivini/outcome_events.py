"""Emits the events of deliveries and setbacks, such as ``jobs.dispatched`` and ``job.failed``."""

from garivini import events
from garivini.model.outcome import Setback, Settled
from garivini.model.state import State
from garivini.submission import Delivery


def emit_settled(setback: Setback, settled: Settled) -> None:
    """Emit the event of a setback, according to the result of settling it."""
    name = {"applied": f"job.{setback.kind}", "repeated": "job.repeated"}.get(settled.result, "job.stale")
    if settled.result == "applied" and settled.state is State.DEAD:
        name = "job.dead"
    events.emit(
        name,
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
    """Emit the events of a batch that was submitted: up to one per group of its jobs."""
    if delivery.delivered:
        events.emit("jobs.dispatched", dbid=dbid, jobs=delivery.delivered)
    if delivery.unsent:
        events.emit("jobs.released", dbid=dbid, jobs=len(delivery.unsent), reason=delivery.reason)
    if delivery.unknown:
        events.emit("jobs.unknown", dbid=dbid, jobs=len(delivery.unknown))
