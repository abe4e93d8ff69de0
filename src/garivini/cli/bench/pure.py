"""Pure Gearman mode: callers, a stock worker, and the bare chain of the same calls.

Both sides have the same callers and worker. The bare chain is an injector and a controller, each a blocking
loop: each read of the socket leads to one insert, or one delete.
"""

import select
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from garivini.cli.bench.bare import Bare
from garivini.cli.bench.floor import (
    JOB_CREATED,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    Connection,
    Grabber,
    packet,
)

#: On our side: the function of the stock worker, and the function that injects jobs.
OURS: Final = ("bench.pure", "inject_jobs")
#: In the bare chain: the functions of the stock worker, of the injector and of the controller.
FLOOR: Final = ("bench.bare", "bench.bare.inject", "bench.bare.run")

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class Callers:
    """Makes foreground calls that inject jobs, several of them in flight at a time, on one connection."""

    def __init__(self, address: str, inject: str, funcname: str, arg: bytes) -> None:
        self._connection = Connection(address)
        payload = _encode({"funcname": funcname, "arg": arg.decode()})
        self._call = packet(SUBMIT_JOB, b"%s\0\0%s" % (inject.encode(), payload))
        self.close: Final = self._connection.close

    def run(self, count: int, in_flight: int) -> list[int]:
        """Make ``count`` calls; return the ids of their jobs. An answered call has committed its job."""
        found: list[int] = []
        first = min(count, in_flight)
        self._connection.send(self._call * first)
        made = first
        while len(found) < count:
            answered = 0
            for kind, body in self._connection.read():
                if kind == WORK_COMPLETE:
                    found.append(_decode(body.partition(b"\0")[2])["jobid"])
                    answered += 1
                elif kind != JOB_CREATED:
                    raise SystemExit(f"the call was answered {body!r}")
            more = min(answered, count - made)
            if more:
                self._connection.send(self._call * more)
                made += more
        return found


def work(address: str, funcname: str, ran: Callable[[int], None]) -> None:
    """Run jobs as a worker without databases does. It never returns."""
    grabber = Grabber(address, funcname)
    while True:
        for handle, payload in grabber.read():
            ran(_decode(payload)["jobid"])
            grabber.complete(handle)
        grabber.send()


def inject(store: Bare, address: str) -> None:
    """Insert the jobs of calls, answer the calls, and submit the jobs to the controller. It never returns."""
    _, function, run = FLOOR
    grabber, client = Grabber(address, function), Connection(address)
    while True:
        calls = grabber.read()
        if calls:
            jobs = [_decode(payload) for _, payload in calls]
            # These jobs are not due, because otherwise the QueueRunner of the other side would claim them.
            jobids = store.insert_many([job["arg"].encode() for job in jobs], 60)
            packets = []
            for (handle, _), job, jobid in zip(calls, jobs, jobids, strict=True):
                grabber.complete(handle, _encode({"jobid": jobid, "dbid": 1}))
                payload = _encode({"jobid": jobid, "dbid": 1, **job})
                packets.append(packet(SUBMIT_JOB_BG, b"%s\0001:%d\0%s" % (run.encode(), jobid, payload)))
            grabber.send()
            client.send(b"".join(packets))
            created = 0
            while created < len(packets):
                created += sum(kind == JOB_CREATED for kind, _ in client.read())
        else:
            grabber.send()


def control(store: Bare, address: str) -> None:
    """Call the worker for submitted jobs, and delete the rows of ended ones. It never returns."""
    funcname, _, function = FLOOR
    grabber, client = Grabber(address, function), Connection(address)
    called: deque[tuple[bytes, int]] = deque()
    running: dict[bytes, tuple[bytes, int]] = {}
    while True:
        ready, _, _ = select.select([grabber.connection, client], [], [])
        if grabber.connection in ready:
            calls = []
            for handle, payload in grabber.read():
                called.append((handle, _decode(payload)["jobid"]))
                calls.append(packet(SUBMIT_JOB, b"%s\0\0%s" % (funcname.encode(), payload)))
            grabber.send()
            client.send(b"".join(calls))
        if client in ready:
            done = []
            for kind, body in client.read():
                if kind == JOB_CREATED:
                    running[body] = called.popleft()
                elif kind == WORK_COMPLETE:
                    done.append(running.pop(body.partition(b"\0")[0]))
            if done:
                store.delete([jobid for _, jobid in done])
                for handle, _ in done:
                    grabber.complete(handle)
                grabber.send()
