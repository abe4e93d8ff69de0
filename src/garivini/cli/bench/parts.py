"""The processes beside the bench, started as ``python -m garivini.cli.bench.parts NAME URL SERVER …``.

A part writes one byte to standard output when it is ready. On standard input, ``g`` begins a turn and ``s``
ends the turn. When a turn has ended, the part writes one byte. At the end of standard input the part ends.
"""

import asyncio
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from garivini.cli.bench import bare, floor, pure
from garivini.cli.bench.runs import Recorder, payload, rows
from garivini.client import Client
from garivini.gearman.servers import parse_addresses
from garivini.roles import queue_runners
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.store.shards import Shards

_IN, _OUT = 0, 1


def main(name: str, url: str, server: str, *rest: str) -> None:
    """Run one part until standard input ends."""
    _PARTS[name](url, server, *rest)


def _turns(turn: Callable[[], None]) -> None:
    """Do a turn at each ``g``. The turn itself reads the ``s``."""
    os.write(_OUT, b".")
    while os.read(_IN, 1):
        turn()
        os.write(_OUT, b".")


def _stopped(seconds: float) -> bool:
    """Wait this number of seconds for ``s`` or the end of standard input; return whether either came."""
    if not select.select([_IN], [], [], seconds)[0]:
        return False
    os.read(_IN, 1)
    return True


def _queue_runner(url: str, server: str) -> None:
    """Run a QueueRunner with its default settings."""
    databases = list(Shards(url))
    for database in databases:
        database.check()
    addresses = parse_addresses(server)

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(_IN, stop.set)
        await queue_runners.serve(databases, addresses, QueueRunnerSettings(), stop=stop)
        asyncio.get_running_loop().remove_reader(_IN)
        os.read(_IN, 1)

    _turns(lambda: asyncio.run(serve()))


def _producer(url: str, server: str, inserted: str, size: str) -> None:
    """Insert batches through a client, which wakes the QueueRunner."""
    client = Client(url, server)
    for database in client.shards:
        database.check()
    recorder = Recorder(Path(inserted))
    store = bare.connect(url)
    jobs = rows(payload(int(size)), bare.BATCH)

    def produce() -> None:
        for batch in floor.produce(store, lambda: client.insert_jobs(jobs), _stopped):
            for jobid, _ in batch:
                recorder.note(jobid)

    _turns(produce)


def _bare_dispatcher(url: str, server: str) -> None:
    store, submitter = bare.connect(url), floor.Submitter(server)
    _turns(lambda: floor.dispatch(store, submitter, _stopped))


def _bare_producer(url: str, server: str, inserted: str, size: str) -> None:
    store = bare.connect(url)
    recorder = Recorder(Path(inserted))
    args = [payload(int(size))] * bare.BATCH

    def produce() -> None:
        for jobids in floor.produce(store, lambda: store.insert_many(args), _stopped):
            for jobid in jobids:
                recorder.note(jobid)

    _turns(produce)


def _bare_worker(url: str, server: str, runs: str) -> None:
    """Run jobs until the bench ends this process."""
    store = bare.connect(url)
    recorder = Recorder(Path(runs))
    os.write(_OUT, b".")
    floor.work(store, server, recorder.note)


def _stock_worker(url: str, server: str, funcname: str, runs: str) -> None:
    recorder = Recorder(Path(runs))
    os.write(_OUT, b".")
    pure.work(server, funcname, recorder.note)


def _bare_injector(url: str, server: str) -> None:
    store = bare.connect(url)
    os.write(_OUT, b".")
    pure.inject(store, server)


def _bare_controller(url: str, server: str) -> None:
    store = bare.connect(url)
    os.write(_OUT, b".")
    pure.control(store, server)


_PARTS: Final[dict[str, Callable[..., None]]] = {
    "stock-worker": _stock_worker,
    "bare-injector": _bare_injector,
    "bare-controller": _bare_controller,
    "queue-runner": _queue_runner,
    "producer": _producer,
    "bare-dispatcher": _bare_dispatcher,
    "bare-producer": _bare_producer,
    "bare-worker": _bare_worker,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
