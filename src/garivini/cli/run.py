"""``garivini run``: roles in one process."""

import asyncio
import gc
import os
import signal
import ssl
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Final, Literal, TypeAlias, get_args

import click
from msgspec.structs import asdict

from garivini import events
from garivini.cli import options
from garivini.cli.output import note
from garivini.cli.tls import warn_of_servers
from garivini.errors import ConflictError, UnreachableError, UsageError
from garivini.gearman.server import Server
from garivini.gearman.servers import parse_address, parse_addresses
from garivini.keeper.declared_schedules import DeclaredSchedules
from garivini.model import lease, pacing
from garivini.model.limits import MAX_ARG
from garivini.model.new_jobs import new_job
from garivini.model.policy import FunctionPolicy
from garivini.model.schedule import Schedule, changed, check_name
from garivini.roles import controller, injector, queue_runners
from garivini.roles.controller import ControllerSettings
from garivini.roles.injector import InjectorSettings
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.settings.tables import FunctionTable, ScheduleTable
from garivini.store.shards import Shards

Role: TypeAlias = Literal["gearman", "queue-runner", "controller", "injector"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
#: The roles that run if none is named. The Injector is not one of them, because it stores the jobs of every
#: client that reaches the Gearman server.
DEFAULT_ROLES: Final[tuple[Role, ...]] = ("gearman", "queue-runner", "controller")


@click.command()
@click.argument("roles", nargs=-1, type=click.Choice(ROLES), metavar="[ROLE]...")
@options.databases
@options.job_servers
@options.tls
@click.option(
    "--lease",
    default=lease.LEASE,
    show_default=True,
    help="Seconds of the lease of a dispatched job. It ends unless the worker renews it.",
)
@click.option(
    "--watermark",
    default=pacing.WATERMARK,
    show_default=True,
    help="Maximum jobs of a function that wait in gearmand; the others wait in the database. 0: no limit.",
)
@click.option("--batch-max", default=pacing.BATCH_MAX, show_default=True, help="Maximum jobs per claim.")
@click.option(
    "--poll",
    default=pacing.POLL,
    show_default=True,
    help="Seconds between two passes of the QueueRunner, if nothing wakes it.",
)
@click.option(
    "--max-calls",
    default=controller.MAX_CALLS,
    show_default=True,
    help="Maximum foreground calls of the Controller. One function alone gets half of them.",
)
@click.option(
    "--drain",
    default=controller.DRAIN,
    show_default=True,
    help="Seconds that the Controller waits for its calls after the first signal.",
)
@click.option(
    "--allow",
    multiple=True,
    show_default="all",
    metavar="FUNC",
    help="Function, or glob pattern of functions, whose jobs the Injector accepts; may be repeated.",
)
@click.option("--max-arg", default=MAX_ARG, show_default=True, help="Maximum bytes of an injected argument.")
@click.option(
    "--rate",
    default=0.0,
    show_default=True,
    help="Maximum jobs per second that the Injector accepts. 0: no limit.",
)
@click.option(
    "--calls",
    default=1000,
    show_default=True,
    help="Maximum calls that the Injector holds, per Gearman server.",
)
@click.option(
    "--json-args/--no-json-args",
    default=False,
    show_default="off",
    help="Whether the Injector stores an argument that is nested JSON as text, instead of refusing it.",
)
@options.logs
def run(
    roles: tuple[Role, ...],
    dbs: list[str],
    job_servers: tuple[str, ...],
    tls: ssl.SSLContext | None,
    lease: int,
    watermark: int,
    batch_max: int,
    poll: float,
    max_calls: int,
    drain: float,
    allow: tuple[str, ...],
    max_arg: int,
    rate: float,
    calls: int,
    json_args: bool,
) -> None:
    """Run roles until SIGTERM or ^C. A second signal ends them immediately.

    \b
    Roles:
      queue-runner  submits due jobs from the databases to the Gearman servers
      controller    calls stock Gearman workers for jobs of flag controller
      injector      stores the jobs that any Gearman client submits to inject_jobs
      gearman       an embedded Gearman server, on the first --job-server, loopback only

    Without a role, all but the injector run. If you have a gearmand, run queue-runner and controller.

    \b
    Examples:
      garivini run
      garivini run queue-runner controller --job-server 10.0.0.5:4730 --job-server 10.0.0.6:4730
      garivini run queue-runner controller injector --allow 'mail.*' --rate 500
      garivini run gearman
    """
    addresses = parse_addresses(job_servers)
    file = options.configuration(click.get_current_context()).file
    settings = QueueRunnerSettings(
        lease=lease,
        watermark=watermark,
        batch_max=batch_max,
        poll=poll,
        functions=_declared_functions(file.functions),
    )
    calling = ControllerSettings(max_calls=max_calls, drain=drain)
    injecting = InjectorSettings(
        allow=allow,
        max_arg=max_arg,
        json_args=json_args,
        rate=rate,
        calls=calls,
        lease=lease,
        watermark=watermark,
    )
    roles = roles or DEFAULT_ROLES
    if tls and "gearman" in roles:
        raise UsageError(
            "the embedded Gearman server has no TLS: run the other roles only, or give --tls-ca none"
        )
    schedules = _declared_schedules(file.schedules)
    asyncio.run(_run(roles, dbs, addresses, settings, calling, injecting, tls, schedules))


async def _run(
    roles: tuple[Role, ...],
    dbs: list[str],
    addresses: list[str],
    settings: QueueRunnerSettings,
    calling: ControllerSettings,
    injecting: InjectorSettings,
    tls: ssl.SSLContext | None,
    schedules: dict[str, Schedule],
) -> None:
    stop = _stop_on_signal()
    server: Server | None = None
    if "gearman" in roles:
        server = Server(*parse_address(addresses[0]))
        await server.start()
        events.emit("server.listening", address=server.address)
    try:
        if set(roles) != {"gearman"}:
            await _check(dbs, addresses, tls)
        _tune_interpreter()
        async with asyncio.TaskGroup() as group:
            group.create_task(stop.wait())
            # Each role has connections of its own.
            if "queue-runner" in roles:
                serving = queue_runners.serve(list(Shards(dbs)), addresses, settings, stop=stop, tls=tls)
                group.create_task(serving)
                if schedules:
                    DeclaredSchedules(Shards(dbs), schedules).start()
            if "controller" in roles:
                serving = controller.serve(list(Shards(dbs)), addresses, calling, stop=stop, tls=tls)
                group.create_task(serving)
            if "injector" in roles:
                serving = injector.serve(Shards(dbs), addresses, injecting, stop=stop, tls=tls)
                group.create_task(serving)
    finally:
        if server is not None:
            await server.close()


def _declared_functions(tables: Mapping[str, FunctionTable]) -> dict[str, FunctionPolicy]:
    """Return the settings that the settings file declares for functions.

    Raises:
        UsageError: the settings of a function are wrong.

    """
    found = {}
    for name, table in tables.items():
        try:
            found[new_job(name, b"").funcname] = FunctionPolicy(**asdict(table))
        except UsageError as error:
            raise UsageError(f"[functions.{name}]: {error}") from None
    return found


def _declared_schedules(tables: Mapping[str, ScheduleTable]) -> dict[str, Schedule]:
    """Return the schedules that the settings file declares.

    Raises:
        UsageError: a schedule is wrong.

    """
    found = {}
    for name, table in tables.items():
        given = {key: value for key, value in asdict(table).items() if value is not None}
        try:
            found[check_name(name)] = changed({}, given | {"arg": (table.arg or "").encode()})
        except UsageError as error:
            raise UsageError(f"[schedules.{name}]: {error}") from None
    return found


def _stop_on_signal() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets. The second one ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


async def _check(dbs: list[str], addresses: list[str], tls: ssl.SSLContext | None) -> None:
    """Check the databases, and TLS to the servers.

    Raises:
        SchemaError: a database does not have the tables of this version. An operator must upgrade it.

    """
    with closing(Shards(dbs)) as shards:
        for database in shards:
            try:
                await asyncio.to_thread(database.check)
            except (UnreachableError, ConflictError) as error:  # the database may become reachable again
                note(f"{error}; retrying")
    if tls:
        await asyncio.to_thread(warn_of_servers, addresses, tls)


def _tune_interpreter() -> None:
    """Adapt Python to a process with a busy loop and threads that wait for databases.

    * Imported modules are exempt from garbage collection. A full collection would visit them all and stop
      every call for 40 ms, once per second under load.
    * The youngest generation is collected after 10,000 new objects, because most of them are freed without
      the collector before there are so many.
    * Threads are switched after 0.5 ms. With Python's default of 5 ms, a thread whose database has answered
      can wait for as long as a commit before it runs.
    """
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
    sys.setswitchinterval(0.0005)
