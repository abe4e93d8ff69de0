"""Time travel: the clock of a queue is that of its database, so the stored times are moved instead."""

from collections.abc import Iterator
from typing import Final

from garivini.model.limits import NEVER

#: The columns with a unix time, by table. 0 and NULL stand for no time, and the largest one for never.
TIMES: Final[dict[str, tuple[str, ...]]] = {
    "job": ("run_after", "created", "since", "lease_end"),
    "failure": ("failed_at",),
    "function": ("paused_until", "rate_used_until", "checked_until"),
    "report": ("reported_at",),
    "finished": ("created", "finished_at", "expires"),
    "schedule": ("next_tick", "queued", "last_tick", "seen"),
    "successor": ("due", "created"),
    "recent_key": ("ends",),
    "turn": ("run_after",),
    "partition_rate": ("used_until",),
    "outbox": ("run_after",),
    "arrived": ("arrived_at",),
    "batch": ("created", "completed_at"),
}


def travel_statements() -> Iterator[str]:
    """Return the statements that move all stored times back, by the seconds of their parameter."""
    for table, columns in TIMES.items():
        for column in columns:
            yield (
                f'UPDATE "{table}" SET "{column}" = max("{column}" - ?, 1) '  # noqa: S608  # constants
                f'WHERE "{column}" > 0 AND "{column}" < {NEVER}'
            )


#: Due times are rounded up to whole seconds. A job inserted for in an hour is due after an hour of travel.
ROUND_DOWN: Final = (
    "UPDATE job SET run_after = run_after - 1 WHERE state = 0 AND run_after = strftime('%s', 'now') + 1"
)
