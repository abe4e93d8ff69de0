"""``garivini run``: roles in one process."""

import asyncio
import gc
import os
import signal
import ssl
import sys
from contextlib import closing

import click

from garivini import events
from garivini.cli import options
from garivini.cli.output import note
from garivini.cli.tls import warn_of_servers
from garivini.errors import ConflictError, UnreachableError, UsageError
from garivini.gearman.server import Server
from garivini.gearman.servers import parse_address, parse_addresses
from garivini.model import lease, pacing
from garivini.model.limits import MAX_ARG
from garivini.roles import controller, injector, queue_runner
from garivini.roles.controller import ControllerSettings
from garivini.roles.injector import InjectorSettings
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.store.database import Database
from garivini.store.shards import Shards

ROLES = ("gearman", "queue-runner", "controller", "injector")
#: What runs where none is named. An Injector stores what anyone sends who reaches the Gearman server: it is
#: to be asked for.
DEFAULT_ROLES = ("gearman", "queue-runner", "controller")
#: New objects between two collections: most are gone by themselves before there are so many.
_YOUNG = 10_000
#: Seconds after which the loop lets a thread go on that has heard from its database. Python's own 5 ms are as
#: long as a commit, and whoever waits for that waits for them too.
_SWITCH = 0.0005


@click.command()
@click.argument("roles", nargs=-1, type=click.Choice(ROLES), metavar="[ROLE]...")
@options.databases
@options.job_servers
@options.tls
@click.option(
    "--lease",
    default=lease.LEASE,
    show_default=True,
    help="Seconds for which a dispatched job is a worker's without a sign of life.",
)
@click.option(
    "--watermark",
    default=pacing.WATERMARK,
    show_default=True,
    help="Jobs of one function that may wait in gearmand; the rest waits in SQL. 0: any number.",
)
@click.option(
    "--batch-max", default=pacing.BATCH_MAX, show_default=True, help="Jobs claimed at a time, at most."
)
@click.option(
    "--poll",
    default=pacing.POLL,
    show_default=True,
    help="Seconds between two looks for work, where nothing wakes the QueueRunner.",
)
@click.option(
    "--max-calls",
    default=controller.MAX_CALLS,
    show_default=True,
    help="Foreground calls that the Controller holds, at most. One function alone gets a half of them.",
)
@click.option(
    "--drain",
    default=controller.DRAIN,
    show_default=True,
    help="Seconds that a Controller which is stopped waits for its calls.",
)
@click.option(
    "--allow",
    multiple=True,
    show_default="all",
    metavar="FUNC",
    help="Function, or glob pattern of functions, whose jobs the Injector takes; may be given several times.",
)
@click.option("--max-arg", default=MAX_ARG, show_default=True, help="Bytes of an injected argument, at most.")
@click.option(
    "--rate", default=0.0, show_default=True, help="Jobs a second that the Injector takes. 0: any number."
)
@click.option(
    "--calls",
    default=1000,
    show_default=True,
    help="Calls that the Injector holds at once, of each Gearman server.",
)
@click.option(
    "--json-args/--no-json-args",
    default=False,
    show_default="off",
    help="Whether the Injector stores an argument that is nested JSON as its text, and does not refuse it.",
)
@options.logs
def run(
    roles: tuple[str, ...],
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
    """Run roles until SIGTERM or ^C; a second one ends them at once.

    \b
    Roles:
      queue-runner  carries due jobs from the databases to the Gearman servers
      controller    calls stock Gearman workers for jobs of flag controller
      injector      stores the jobs that any Gearman client submits to inject_jobs
      gearman       an embedded Gearman server, on the first --job-server, loopback only

    Without a role all run but the injector. With a gearmand of your own run queue-runner and controller.

    \b
    Examples:
      garivini run
      garivini run queue-runner controller --job-server 10.0.0.5:4730 --job-server 10.0.0.6:4730
      garivini run queue-runner controller injector --allow 'mail.*' --rate 500
      garivini run gearman
    """
    addresses = parse_addresses(job_servers)
    settings = QueueRunnerSettings(lease=lease, watermark=watermark, batch_max=batch_max, poll=poll)
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
            "the embedded Gearman server speaks no TLS: run the other roles alone, or say --tls-ca none"
        )
    asyncio.run(_run(roles, dbs, addresses, settings, calling, injecting, tls))


async def _run(
    roles: tuple[str, ...],
    dbs: list[str],
    addresses: list[str],
    settings: QueueRunnerSettings,
    calling: ControllerSettings,
    injecting: InjectorSettings,
    tls: ssl.SSLContext | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    server: Server | None = None
    if "gearman" in roles:
        server = Server(*parse_address(addresses[0]))
        await server.start()
        events.emit("server.listening", address=server.address)
    try:
        if set(roles) != {"gearman"}:
            with closing(Shards(dbs)) as shards:
                for database in shards:
                    # An unreachable database may come back; one without tables stays so until an operator
                    # acts.
                    await asyncio.to_thread(_check, database)
            if tls:
                await asyncio.to_thread(warn_of_servers, addresses, tls)
        # What the imports have made stays. A collection that looks through it stops all calls for 40 ms, and
        # under load there is one a second.
        gc.freeze()
        gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
        sys.setswitchinterval(_SWITCH)
        async with asyncio.TaskGroup() as group:
            group.create_task(stop.wait())
            # Each role has connections of its own.
            if "queue-runner" in roles:
                serving = queue_runner.serve(list(Shards(dbs)), addresses, settings, stop=stop, tls=tls)
                group.create_task(serving)
            if "controller" in roles:
                serving = controller.serve(list(Shards(dbs)), addresses, calling, stop=stop, tls=tls)
                group.create_task(serving)
            if "injector" in roles:
                serving = injector.serve(Shards(dbs), addresses, injecting, stop=stop, tls=tls)
                group.create_task(serving)
    finally:
        if server is not None:
            await server.close()


def _check(database: Database) -> None:
    try:
        database.check()
    except (UnreachableError, ConflictError) as error:
        note(f"{error}; trying on")
