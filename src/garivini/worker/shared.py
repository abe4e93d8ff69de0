"""What the parts of a served worker share."""

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
    """What the parts of a served worker share."""

    #: The worker's name, for records.
    name: str
    #: By their names in Gearman.
    functions: MutableMapping[bytes, Registered]
    loop: asyncio.AbstractEventLoop
    #: Where the supervisor reads what is running; None without one.
    slot: Slot | None
    #: The time, and what waits for it.
    clock: Clock
    #: By database. Filled after the parts are made, because the keepers call them.
    keepers: dict[int, Keeper] = field(default_factory=dict)

    def call_in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call it in the loop soon, unless the loop is closed. From any thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call, *arguments)
