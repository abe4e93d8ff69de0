"""What happens, said once: code emits named events, and whoever likes listens.

The standard logger ``garivini`` is the one listener from the start; metrics and dashboards add theirs.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

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
    if _logger.isEnabledFor(level):
        text = " ".join(f"{key}={value!r}" for key, value in fields.items())
        _logger.log(level, "%s %s", name, text, extra={"event": name, "fields": fields})


_listeners: list[Listener] = [_log]


def emit(name: str, **fields: Any) -> None:
    """Tell every listener that ``name`` has happened."""
    for listener in _listeners:
        listener(name, fields)


def listen(listener: Listener) -> Callable[[], None]:
    """Call ``listener(name, fields)`` with each event from now on; return what ends that.

    A listener runs in the thread that emits and must neither block nor raise.
    """
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
