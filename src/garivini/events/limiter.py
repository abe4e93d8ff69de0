"""Selects which of many similar events to emit. No I/O, no clock."""

from collections import Counter
from typing import Any, Final

from garivini.events.table import EVENTS

#: Seconds of an interval.
INTERVAL: Final = 10.0
#: Maximum reasons of one event in an interval. All others count as one: a reason may quote input.
_MAX_REASONS: Final = 10
_LIMITS: Final = {name: event.limit for name, event in EVENTS.items() if event.limit}

#: The name of an event and its reason.
_Key = tuple[str, tuple[Any, ...]]


class Limiter:
    """Admits the first similar events of each interval, and combines all later ones into one event.

    Times are seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._seen: Counter[_Key] = Counter()
        self._reasons: Counter[str] = Counter()
        #: For each reason with held events, their number and the fields of the last one.
        self._held: dict[_Key, tuple[int, dict[str, Any]]] = {}

    def admit(self, name: str, fields: dict[str, Any], now: float) -> bool:
        """Return whether to emit a limited event now. Otherwise the event is held until ``take_held``."""
        if now - self._began >= INTERVAL and not self._held:
            self._restart(now)
        maximum, parts = _LIMITS[name]
        key = name, tuple(str(fields.get(part))[:200] for part in parts)
        if key not in self._seen:
            if self._reasons[name] >= _MAX_REASONS:
                key = name, ()
            else:
                self._reasons[name] += 1
        self._seen[key] += 1
        if self._seen[key] <= maximum:
            return True
        self._held[key] = self._held.get(key, (0, fields))[0] + 1, fields
        return False

    def take_held(self, now: float) -> list[tuple[str, dict[str, Any]]]:
        """Begin an interval; for each reason with held events, return one event with their ``count``.

        These reasons admit no event in the new interval, so that a flood becomes one event per interval.
        """
        held, self._held = self._held, {}
        self._restart(now)
        for name, reason in held:
            self._seen[name, reason] = _LIMITS[name].maximum
            self._reasons[name] += 1
        return [(name, {**fields, "count": count}) for (name, _), (count, fields) in held.items()]

    def _restart(self, now: float) -> None:
        self._began = now
        self._seen.clear()
        self._reasons.clear()
