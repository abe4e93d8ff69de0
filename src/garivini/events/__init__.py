"""Named events: code emits them, listeners receive them. ``events.table`` lists them.

The standard logger ``garivini`` is the first listener. Metrics, dashboards and tests add theirs.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from garivini.events.table import EVENTS

#: Called with the name and the fields of each event.
Listener = Callable[[str, dict[str, Any]], None]

_logger: Final = logging.getLogger("garivini")
_LEVELS: Final = {name: event.level for name, event in EVENTS.items()}
_UNLOGGED: Final = {name: event.unlogged for name, event in EVENTS.items() if event.unlogged}
_LIMITED: Final = frozenset(name for name, event in EVENTS.items() if event.limit)


def _log(name: str, fields: dict[str, Any]) -> None:
    if name in _UNLOGGED:
        fields = {key: value for key, value in fields.items() if key not in _UNLOGGED[name]}
    log(name, fields, _LEVELS.get(name, logging.DEBUG))


def log(name: str, fields: dict[str, Any], level: int, error: BaseException | None = None) -> None:
    """Write an event to the log only, with the traceback of an error if one is given."""
    if _logger.isEnabledFor(level):
        text = " ".join(f"{key}={value!r}" for key, value in fields.items())
        extra = {"event": name, "fields": fields}
        _logger.log(level, "%s %s", name, text, extra=extra, exc_info=error)


class Gate(Protocol):
    """Decides which of the limited events are emitted immediately. See ``events.throttle``."""

    def admit(self, name: str, fields: dict[str, Any]) -> bool:
        """Return whether to emit this event now."""

    def restart(self) -> None:
        """Emit the held events and admit the next ones, because a new listener has received no event."""


_listeners: list[Listener] = [_log]
_gate: Gate | None = None


def limit(gate: Gate) -> None:
    """Let this gate decide about limited events from now on."""
    global _gate
    _gate = gate


def emit(name: str, **fields: Any) -> None:
    """Send an event to every listener.

    An event that wrong input can cause in any number may be held: see ``events.limiter``.
    """
    if name not in _LIMITED or _gate is None or _gate.admit(name, fields):
        emit_unlimited(name, fields)


def emit_unlimited(name: str, fields: dict[str, Any]) -> None:
    """Send an event to every listener, whatever its limit."""
    for listener in _listeners:
        listener(name, fields)


def is_enabled(name: str) -> bool:
    """Return whether anybody receives an event: a listener, or the log at its level.

    Callers check this before they collect fields that take time.
    """
    return _listeners[-1] is not _log or _logger.isEnabledFor(_LEVELS[name])


def listen(listener: Listener) -> Callable[[], None]:
    """Call ``listener(name, fields)`` with each event from now on; return a function that ends this.

    A listener runs in the thread that emits the event. It must neither block nor raise an exception.
    """
    if _gate is not None:
        _gate.restart()
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


@contextmanager
def only(listener: Listener) -> Iterator[None]:
    """Send every event to this listener alone, limited events too, while the context lasts.

    For a simulation: the events of a simulated process do not reach the log and the listeners of the real
    process.
    """
    global _listeners, _gate
    before = _listeners, _gate
    _listeners, _gate = [listener], None
    try:
        yield
    finally:
        _listeners, _gate = before
