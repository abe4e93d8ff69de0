"""The passes of an Injector over one database: they find orphans, and count leased rows."""

from garivini.model.state import State
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.job_servers import JobServers
from garivini.roles.orphans import Orphans
from garivini.roles.watermark import Watermark

#: Seconds between two passes.
INTERVAL = 1.0


class InjectPasses:
    """A loop of passes for one database.

    An Injector that is killed between commit and submit leaves orphans, and the next Injector that starts
    finds these orphans. For functions that have jobs of flag controller, the passes also count the leased
    rows, on which the room of these functions depends.
    """

    def __init__(self, dispatcher: Dispatcher, job_servers: JobServers, watermark: Watermark) -> None:
        self.name: str = f"injector of database {dispatcher.database.dbid}"
        self._dispatcher = dispatcher
        self._watermark = watermark
        self._servers = job_servers
        self._orphans = Orphans(dispatcher, job_servers)

    async def run_pass(self) -> float:
        """Do one pass; return the seconds until the next one is due."""
        if not self._servers.answered:
            return INTERVAL
        await self._dispatcher.refresh()  # an idle Injector has to learn of changed settings, too
        now = self._dispatcher.monotonic()
        await self._dispatcher.call(self._dispatcher.count_leased, self._watermark.controlled, now)
        clock, lanes, _ = await self._dispatcher.call(self._dispatcher.database.lanes)
        await self._orphans.find([lane for lane in lanes if lane.state is State.LEASED], clock)
        return min([INTERVAL, *self._orphans.until_sweep()])
