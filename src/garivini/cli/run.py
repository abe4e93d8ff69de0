"""``garivini run``: roles in one process."""

import asyncio
import signal
import ssl

import click

from garivini import events, policy
from garivini.cli import options
from garivini.cli.tls import warn_of_servers
from garivini.errors import ConflictError, UnreachableError, UsageError
from garivini.gearman.server import Server
from garivini.gearman.servers import parse_address, parse_addresses
from garivini.roles import queue_runner
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.store.database import Database
from garivini.store.shards import Shards

ROLES = ("gearman", "queue-runner")


@click.command()
@click.argument("roles", nargs=-1, type=click.Choice(ROLES), metavar="[ROLE]...")
@options.databases
@options.job_servers
@options.tls
@click.option(
    "--lease",
    default=policy.LEASE,
    show_default=True,
    help="Seconds for which a dispatched job is a worker's without a sign of life.",
)
@click.option(
    "--watermark",
    default=policy.WATERMARK,
    show_default=True,
    help="Jobs of one function that may wait in gearmand; the rest waits in SQL. 0: any number.",
)
@click.option(
    "--batch-max", default=policy.BATCH_MAX, show_default=True, help="Jobs claimed at a time, at most."
)
@click.option(
    "--poll",
    default=policy.POLL,
    show_default=True,
    help="Seconds between two looks for work, where nothing wakes the QueueRunner.",
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
) -> None:
    """Run roles until SIGTERM or ^C.

    \b
    Roles:
      queue-runner  carries due jobs from the databases to the Gearman servers
      gearman       an embedded Gearman server, on the first --job-server, loopback only

    Without a role both run. With a gearmand of your own run just queue-runner.

    \b
    Examples:
      garivini run
      garivini run queue-runner --job-server 10.0.0.5:4730 --job-server 10.0.0.6:4730
      garivini run gearman
    """
    addresses = parse_addresses(job_servers)
    settings = QueueRunnerSettings(lease=lease, watermark=watermark, batch_max=batch_max, poll=poll)
    roles = roles or ROLES
    if tls and "gearman" in roles:
        raise UsageError(
            "the embedded Gearman server speaks no TLS: run queue-runner alone, or say --tls-ca none"
        )
    asyncio.run(_run(roles, dbs, addresses, settings, tls))


async def _run(
    roles: tuple[str, ...],
    dbs: list[str],
    addresses: list[str],
    settings: QueueRunnerSettings,
    tls: ssl.SSLContext | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server: Server | None = None
    if "gearman" in roles:
        server = Server(*parse_address(addresses[0]))
        await server.start()
        events.emit("server.listening", address=server.address)
    try:
        if "queue-runner" in roles:
            shards = Shards(dbs)
            for database in shards:
                # A database that is away now may come back; one without its tables will not mend itself.
                await asyncio.to_thread(_check, database)
            if tls:
                await asyncio.to_thread(warn_of_servers, addresses, tls)
            await queue_runner.serve(list(shards), addresses, settings, stop=stop, tls=tls)
        else:
            await stop.wait()
    finally:
        if server is not None:
            await server.close()


def _check(database: Database) -> None:
    try:
        database.check()
    except (UnreachableError, ConflictError) as error:
        click.echo(f"garivini: {error}; trying on", err=True)
