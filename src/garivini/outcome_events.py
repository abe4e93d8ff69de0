"""Emits the events of setbacks: ``job.failed``, ``job.dead``, ``job.stale`` and the like."""

from garivini import events
from garivini.model.outcome import Setback, Settled
from garivini.model.state import State


def emit_settled(setback: Setback, settled: Settled) -> None:
    """Emit what became of a setback."""
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
