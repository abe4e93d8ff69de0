"""A worker of a pure load: it knows Gearman and no database, and writes down what it ran."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

from garivini.gearman.aio import Held, Worker
from garivini.model.payload import decode_payload
from tests.kills.history import Ended, Recorder, Started

#: Jobs at a time.
_SLOTS: Final = 8


async def main() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    record = Recorder(Path(os.environ["KILLS_HISTORY"]))

    def take(held: Held) -> None:
        job = decode_payload(held.job.data)
        token, milliseconds = job.arg.decode().split()
        jobid, attempt, pid = (job.jobid, job.dbid), job.attempt or 0, os.getpid()

        def end() -> None:
            record(Ended(job=jobid, attempt=attempt, token=token, pid=pid))
            held.complete()

        record(Started(job=jobid, attempt=attempt, token=token, pid=pid))
        loop.call_later(float(milliseconds) / 1000, end)

    worker = Worker(os.environ["GARIVINI_JOB_SERVERS"], [b"stock"], take, slots=_SLOTS)
    running = asyncio.create_task(worker.run())
    await stop.wait()
    await worker.drain()
    await running


if __name__ == "__main__":
    asyncio.run(main())
