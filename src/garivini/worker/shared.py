"""The objects that the parts of a served worker share."""

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from garivini.clock import Clock
from garivini.keeper.keeper import Keeper
from garivini.keeper.supervised_child import Slot
from garivini.worker.functions import Registered


@dataclass(frozen=True, slots=True)
class Shared:
    """The objects that the parts of a served worker share."""

    #: The worker's name, for records.
    name: str
    #: The functions by their names in Gearman.
    functions: MutableMapping[bytes, Registered]
    loop: asyncio.AbstractEventLoop
    #: The memory in which the supervisor reads which job is running; None without a supervisor.
    slot: Slot | None
    #: The clock of the worker's threads.
    clock: Clock
    #: The keepers by database. Filled after the parts are made, because keepers call them.
    keepers: dict[int, Keeper] = field(default_factory=dict)

    def call_in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        """Schedule a call in the loop, unless the loop is closed. Any thread may use this."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call, *arguments)
