"""The calls of a database about its schedules."""

from typing import Final

from garivini.store import schedules as stored_schedules
from garivini.store.calls import in_transaction, read_only
from garivini.store.connections import Connections


class ScheduleCalls:
    """These calls of ``Database``."""

    connections: Connections

    schedules: Final = read_only(stored_schedules.schedules)
    has_schedule: Final = read_only(stored_schedules.has_schedule)
    due_schedules: Final = read_only(stored_schedules.due_schedules)
    until_tick: Final = read_only(stored_schedules.until_tick)
    tick: Final = in_transaction(stored_schedules.tick)
    run_schedule: Final = in_transaction(stored_schedules.run_schedule)
    set_schedule: Final = in_transaction(stored_schedules.set_schedule)
    declare_schedule: Final = in_transaction(stored_schedules.declare_schedule)
    see_schedules: Final = in_transaction(stored_schedules.see_schedules)
    reset_schedule: Final = in_transaction(stored_schedules.reset_schedule)
    pause_schedule: Final = in_transaction(stored_schedules.pause_schedule)
    resume_schedule: Final = in_transaction(stored_schedules.resume_schedule)
    remove_schedule: Final = in_transaction(stored_schedules.remove_schedule)
