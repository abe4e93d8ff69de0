"""The state and the faults of an installation, for ``status``, ``health`` and ``doctor``."""

import ssl
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from garivini.cli.output import number
from garivini.cli.tls import PATIENCE, explain
from garivini.errors import GariviniError
from garivini.gearman.blocking import Client
from garivini.gearman.servers import parse_addresses
from garivini.model.limits import NEVER
from garivini.model.policy import Policies
from garivini.model.state import State
from garivini.store.database import Database, Waiting
from garivini.store.shards import Shards
from garivini.submission import INJECT_JOBS, RUN_QUEUED_JOB, WAKE

#: Maximum seconds for which a due job may wait if there is no QueueRunner, and for which a due tick may wait.
_WITHOUT_QUEUE_RUNNER: Final = 60
#: Default maximum seconds for which a due job may wait.
MAX_AGE: Final = 300
#: Garivini's own functions, and the role that runs each.
ROLES: Final = {RUN_QUEUED_JOB: "controller", INJECT_JOBS: "injector", WAKE: "queue-runner"}
_TITLES: Final = {"controller": "Controller", "injector": "Injector"}


@dataclass(slots=True)
class Store:
    """One database: its jobs, or its fault."""

    name: str
    error: str = ""
    #: Numbers of jobs by the name of their state.
    jobs: Counter[str] = field(default_factory=Counter)
    waiting: Waiting = field(default_factory=lambda: Waiting(0, 0, 0))
    #: By function: seconds since its oldest waiting job became due.
    due: dict[str, int] = field(default_factory=dict)
    #: By function: the unix time until which the function is paused. Paused functions are not in ``due``.
    paused: Mapping[str, int] = field(default_factory=dict)
    #: By schedule: seconds since its next tick became due. Only schedules with a due tick are included.
    late: Mapping[str, int] = field(default_factory=dict)

    @property
    def oldest(self) -> int:
        """Seconds since the oldest waiting job became due; 0 if none is due."""
        return max(self.due.values(), default=0)


@dataclass(slots=True)
class Server:
    """One Gearman server: its functions with numbers of jobs and workers, or its fault."""

    name: str
    error: str = ""
    functions: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault that keeps jobs from running."""

    #: The database or server that has the fault.
    subject: str
    says: str
    #: The recommended change, if known.
    do: str = ""
    #: Whether the subject itself does not answer, or cannot be used.
    unusable: bool = False


def survey(
    dbs: Sequence[str], addresses: Iterable[str], tls: ssl.SSLContext | None, *, counted: bool = False
) -> tuple[list[Store], list[Server]]:
    """Return the state of each database and server.

    Args:
        dbs: the URLs of the databases.
        addresses: the addresses of the Gearman servers.
        tls: the context of the connections to the servers.
        counted: whether to count due, delayed and backed-off jobs, which reads more rows.

    """
    with closing(Shards(dbs)) as shards:
        stores = [_store(database, counted=counted) for database in shards]
    return stores, [_server(address, tls) for address in parse_addresses(addresses)]


def _store(database: Database, *, counted: bool) -> Store:
    store = Store(database.where)
    try:
        database.check(name=False)
        store.paused = Policies(database.functions()).paused
        now = database.clock()
        for count in database.counts():
            store.jobs[count.state.name.lower()] += count.jobs
            due = count.state is State.WAITING and count.first != NEVER and count.first <= now
            if due and count.funcname not in store.paused:
                store.due[count.funcname] = int(now) - count.first
        store.late = {
            it.name: int(now) - it.next_tick
            for it in database.schedules()
            if not it.paused and not it.retired and it.next_tick is not None and it.next_tick < int(now)
        }
        if counted:
            waiting = database.waiting()
            # Leased rows that another program has put off are waiting too.
            put_off = max(0, store.jobs[State.WAITING.name.lower()] - sum(waiting))
            store.waiting = waiting._replace(delayed=waiting.delayed + put_off)
    except GariviniError as error:
        store.error = str(error)
    return store


def _server(address: str, tls: ssl.SSLContext | None) -> Server:
    server = Server(address)
    try:
        with Client(address, timeout=PATIENCE, tls=tls) as client:
            for name, counts in sorted(client.functions().items()):
                server.functions[name.decode("utf-8", "backslashreplace")] = {
                    "queued": counts.queued,
                    "running": counts.running,
                    "workers": counts.workers,
                }
    except GariviniError as error:
        server.error = explain(error, tls)
    return server


def problems(stores: Sequence[Store], servers: Sequence[Server], *, max_age: int) -> Iterator[Problem]:
    """Yield the reasons why jobs do not run.

    Missing workers and QueueRunners are reported only if every server has answered, because otherwise they
    may be connected to an unreachable server.

    Args:
        stores: the databases, from ``survey``.
        servers: the Gearman servers, from ``survey``.
        max_age: maximum seconds for which a due job may wait.

    """
    yield from (Problem(server.name, server.error, unusable=True) for server in servers if server.error)
    yield from (Problem(store.name, store.error, unusable=True) for store in stores if store.error)
    workers = Counter[str]()
    for server in servers:
        for name, counts in server.functions.items():
            workers[name] += counts["workers"]
    paused = frozenset[str]().union(*(store.paused for store in stores))
    all_answer = not any(server.error for server in servers)
    if all_answer:
        for server in servers:
            yield from _queued(server, workers, paused)
    for store in stores:
        for name, age in store.due.items():
            if all_answer and not workers[name]:
                yield Problem(
                    store.name, f"jobs of {name} are due, and no worker has this function", _start(name)
                )
            yield from _overdue(store, name, age, max_age, no_queue_runner=all_answer and not workers[WAKE])
        for name, age in store.late.items():
            if age > _WITHOUT_QUEUE_RUNNER:
                yield Problem(
                    store.name,
                    f"the tick of schedule {name} has been due for {age} s",
                    "start a QueueRunner, or read the errors of the schedule in its log",
                )


def _queued(server: Server, workers: Counter[str], paused: Collection[str]) -> Iterator[Problem]:
    for name, counts in server.functions.items():
        if not counts["queued"] or workers[name] or name == WAKE or name in paused:
            continue
        if name in ROLES:
            role = ROLES[name]
            verb = "waits" if counts["queued"] == 1 else "wait"
            says = f"{number(counts['queued'], 'call')} of {name} {verb}, and there is no {_TITLES[role]}"
        else:
            says = f"jobs of {name} are queued, and no worker has this function"
        yield Problem(server.name, says, _start(name))


def _overdue(store: Store, name: str, age: int, max_age: int, *, no_queue_runner: bool) -> Iterator[Problem]:
    says = f"a job of {name} has been due for {age} s and "
    if no_queue_runner and age > min(max_age, _WITHOUT_QUEUE_RUNNER):
        yield Problem(store.name, f"{says}there is no QueueRunner", "start one: garivini run queue-runner")
    elif age > max_age:
        yield Problem(
            store.name,
            f"{says}has not started",
            "start more workers, or read the log of the QueueRunner",
        )


def _start(name: str) -> str:
    if name in ROLES:
        return f"start one: garivini run {ROLES[name]}"
    return "start one: garivini worker MODULE, or any Gearman worker that registers this name"
