"""``garivini worker``: the functions of a module, in several processes."""

import importlib
import os
import ssl
import sys
from pathlib import Path
from types import ModuleType

import click

from garivini.cli import options
from garivini.cli.tls import warn_of_servers
from garivini.errors import UsageError
from garivini.supervisor import CONFIGURATION_ERROR, Child, Supervisor
from garivini.worker import Worker


@click.command()
@click.argument("module")
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1, 1024),
    default=os.cpu_count() or 1,
    show_default="one a core",
    help="Child processes. Each runs one def function at a time.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds after the first signal in which jobs may finish.",
)
@options.tls
@options.logs
def worker(module: str, processes: int, drain: float, tls: ssl.SSLContext | None) -> None:
    """Run the functions that MODULE registers on a Worker.

    MODULE is an importable name such as shop.jobs, or a file such as jobs.py; MODULE:NAME chooses one Worker
    where it has several. The first SIGTERM or ^C finishes what has begun, the second ends at once. A child
    that dies is started again, and its jobs run again. The --tls options are for a Worker that was made
    without tls=.

    \b
    Example, in jobs.py:
      from garivini import Client, Worker
      worker = Worker(Client("sqlite:///garivini.db"), ["127.0.0.1:4730"])

      @worker.function("hello")
      def hello(job):
          print("Hello", job.arg.decode())

    \b
    Then:
      garivini worker jobs.py
      garivini insert hello world
    """
    sys.exit(Supervisor(lambda child: _child(module, child, tls), processes, drain=drain).run())


def _child(target: str, child: Child, tls: ssl.SSLContext | None) -> None:
    try:
        found = load(target)
        if not found.functions:
            raise UsageError(f'{target} registers no function: decorate one with @worker.function("name")')
    except UsageError as error:
        click.echo(f"garivini: {error}", err=True)
        sys.exit(CONFIGURATION_ERROR)
    if tls and found.tls is None:
        found.tls = tls
        warn_of_servers(found.job_servers, tls)
    found.run(child)


def load(target: str) -> Worker:
    """Import a module or file and return its Worker.

    Raises:
        UsageError: it cannot be imported, or has no Worker, or several and none is chosen.

    """
    name, _, attribute = target.partition(":")
    module = _import(name)
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, Worker):
            raise UsageError(f"{name} has no Worker named {attribute}")
        return found
    workers = {id(value): value for value in vars(module).values() if isinstance(value, Worker)}
    if len(workers) != 1:
        count = "no Worker" if not workers else f"{len(workers)} Workers: choose with {name}:NAME"
        raise UsageError(f"{name} has {count}")
    return workers.popitem()[1]


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        file = Path(name).resolve()
        sys.path.insert(0, str(file.parent))
        name = file.stem
    elif "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # found, but what it imports is not there: its own traceback says more
        raise UsageError(f"there is no module {name}: give an importable name or a file.py") from None
