"""What happens, said once: code emits named events, and whoever likes listens.

The standard logger ``garivini`` is the one listener from the start; metrics and dashboards add theirs.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

Listener = Callable[[str, dict[str, Any]], None]

_logger: Final = logging.getLogger("garivini")

#: Events that a person should see; all others are logged at level DEBUG or, where listed, INFO.
_WARNINGS: Final = frozenset(
    {
        "call.cancelled",
        "calls.lost",
        "controller.drain_incomplete",
        "gearman.lost",
        "gearman.protocol_error",
        "gearman.rejected",
        "gearman.silent",
        "gearman.unreachable",
        "inject.failed",
        "inject.not_dispatched",
        "inject.refused",
        "inject.unheard",
        "job.failed",
        "job.dead",
        "job.stale",
        "job.crashed",
        "job.dropped",
        "dispatch.failed",
        "job.overdue",
        "keeper.abandoned",
        "outcome.dropped",
        "outcome.reduced",
        "outcomes.put_aside",
        "reports.dropped",
        "server.dropped",
        "server.full",
        "role.error",
        "worker.child_died",
        "worker.drain_incomplete",
    }
)
_INFOS: Final = frozenset(
    {
        "controller.draining",
        "controller.started",
        "controller.stopped",
        "gearman.connected",
        "role.started",
        "role.stopped",
        "worker.draining",
        "worker.started",
        "worker.stopped",
        "server.listening",
    }
)


def _log(name: str, fields: dict[str, Any]) -> None:
    level = logging.WARNING if name in _WARNINGS else logging.INFO if name in _INFOS else logging.DEBUG
    log(name, fields, level)


def log(name: str, fields: dict[str, Any], level: int, error: BaseException | None = None) -> None:
    """Write an event to the log alone, with the traceback of an error if one is given."""
    if _logger.isEnabledFor(level):
        text = " ".join(f"{key}={value!r}" for key, value in fields.items())
        extra = {"event": name, "fields": fields}
        _logger.log(level, "%s %s", name, text, extra=extra, exc_info=error)


#: Interval in seconds: similar events after the first ones become one, with their number as ``count``.
INTERVAL: Final = 10.0
#: Different reasons of one event in an interval. The rest counts as one reason: a reason may quote input.
_MOST_REASONS: Final = 10

#: Events that wrong input can cause in any number: the maximum per reason and interval, and the fields that
#: form the reason.
_LIMITED: Final[Mapping[str, tuple[int, tuple[str, ...]]]] = {
    "gearman.protocol_error": (5, ("error",)),
    "gearman.rejected": (5, ("code", "text")),
    "inject.failed": (5, ("error",)),
    "inject.refused": (1, ("reason",)),
    "job.dead": (100, ("kind", "error")),
    "job.dropped": (5, ("function", "error")),
    "job.stale": (100, ("kind",)),
    "reports.dropped": (5, ("dbid", "error")),
}


class Limiter:
    """Selects the events to emit: the first similar ones of each interval, then one for all others. Pure.

    Times are seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._seen: Counter[tuple[str, tuple[Any, ...]]] = Counter()
        self._reasons: Counter[str] = Counter()
        #: The last event of each reason that was held back, and how many there are.
        self._held: dict[tuple[str, tuple[Any, ...]], tuple[int, dict[str, Any]]] = {}

    def admit(self, name: str, fields: dict[str, Any], now: float) -> bool:
        """Whether to emit one of the limited events now. Otherwise it is held, until ``take_held``."""
        if now - self._began >= INTERVAL and not self._held:
            self._restart(now)
        free, parts = _LIMITED[name]
        key = name, tuple(str(fields.get(part))[:200] for part in parts)
        if key not in self._seen:
            if self._reasons[name] >= _MOST_REASONS:
                key = name, ()
            else:
                self._reasons[name] += 1
        self._seen[key] += 1
        if self._seen[key] <= free:
            return True
        self._held[key] = self._held.get(key, (0, fields))[0] + 1, fields
        return False

    def take_held(self, now: float) -> list[tuple[str, dict[str, Any]]]:
        """Begin an interval; return the events that were held, each with its ``count``.

        Reasons with held events remain held, so that a flood becomes one event per interval.
        """
        held, self._held = self._held, {}
        self._restart(now)
        for name, reason in held:
            self._seen[name, reason] = _LIMITED[name][0]
            self._reasons[name] += 1
        return [(name, {**fields, "count": count}) for (name, _), (count, fields) in held.items()]

    def _restart(self, now: float) -> None:
        self._began = now
        self._seen.clear()
        self._reasons.clear()


class Gate(Protocol):
    """Decides which of the limited events are emitted at once. See ``throttle``."""

    def admit(self, name: str, fields: dict[str, Any]) -> bool:
        """Whether to emit this one now."""

    def restart(self) -> None:
        """Emit what is held, and admit the next events: a new listener has seen none."""


_listeners: list[Listener] = [_log]
_gate: Gate | None = None


def limit(gate: Gate) -> None:
    """Let this gate decide about limited events from now on."""
    global _gate
    _gate = gate


def emit(name: str, **fields: Any) -> None:
    """Send the event ``name`` to every listener.

    An event that wrong input can cause in any number may be held back: see ``Limiter``.
    """
    if name not in _LIMITED or _gate is None or _gate.admit(name, fields):
        tell(name, fields)


def tell(name: str, fields: dict[str, Any]) -> None:
    """Send an event to every listener, without a limit."""
    for listener in _listeners:
        listener(name, fields)


def listen(listener: Listener) -> Callable[[], None]:
    """Call ``listener(name, fields)`` with each event from now on; return what ends that.

    A listener runs in the thread that emits and must neither block nor raise.
    """
    if _gate is not None:
        _gate.restart()
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
