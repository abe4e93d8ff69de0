"""``garivini worker``: runs the functions of a module, in several processes."""

import logging
import re
import ssl
import sys
from typing import Final, Literal

import click

from garivini import settings
from garivini.cli import options
from garivini.cli.cores import usable_cores
from garivini.cli.loading import Speaker
from garivini.cli.worker_child import Selection, run_child
from garivini.keeper.supervised_child import ReplaceWhen, SupervisedChild
from garivini.worker import joblog
from garivini.worker.joblog import JobLog
from garivini.worker.supervisor import Supervisor

_UNITS: Final = {"": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def parse_size(text: str) -> int:
    """Return the number of bytes of a size, such as ``1048576`` or ``1MiB``."""
    found = re.fullmatch(r"0*([1-9][0-9]{0,14}) ?(|[kmg]ib)", text.lower())
    if found is None:
        raise click.BadParameter(f"{text!r:.100} is not a size: write bytes, or such as 512MiB or 2GiB")
    return int(found[1]) * _UNITS[found[2]]


@click.command()
@click.argument("module")
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1, 1024),
    default=None,
    show_default="one per usable core; with --reload: 1",
    help="Child processes. Each runs one def function at a time.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds for which jobs may continue after the first signal.",
)
@click.option(
    "--log-jobs",
    type=click.Choice(["off", "debug", "info"]),
    default="off",
    show_default=True,
    envvar="GARIVINI_LOG_JOBS",
    help="Level of log records for the start and end of each job; debug needs --verbose. "
    "Environment: GARIVINI_LOG_JOBS.",
)
@click.option(
    "--log-tracebacks/--no-log-tracebacks",
    default=False,
    show_default="off",
    envvar="GARIVINI_LOG_TRACEBACKS",
    help="Whether each failure is logged with its traceback, at level error. "
    "Environment: GARIVINI_LOG_TRACEBACKS.",
)
@click.option("--only", metavar="GLOB", multiple=True, help="Run only functions of such names. Repeatable.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Run no functions of such names. Repeatable.")
@click.option(
    "--max-jobs",
    type=click.IntRange(min=1),
    help="Jobs after which a process is replaced by a new one; up to a tenth more.",
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    type=parse_size,
    help="Memory in RAM beyond which a process is replaced: bytes, or such as 512MiB.",
)
@click.option("--reload", is_flag=True, help="Restart processes when a loaded Python file changes.")
@options.tls
@options.logs
def worker(
    module: str,
    processes: int | None,
    drain: float,
    log_jobs: Literal["off", "debug", "info"],
    log_tracebacks: bool,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    max_jobs: int | None,
    max_memory: int | None,
    reload: bool,
    tls: ssl.SSLContext | None,
) -> None:
    """Run the functions that MODULE registers on a Garivini or a Worker.

    MODULE is an importable name such as shop.jobs, or a file such as jobs.py. MODULE:NAME selects one of
    several. After the first SIGTERM or ^C, only jobs that have started run on, to their end. A second
    signal ends all processes immediately. A process that dies is restarted, and its jobs run again. If the
    module cannot be imported or has neither with a function, the exit status is 78, and no process is
    restarted; with --reload, the process waits for a change of a file. The --tls options apply to a Worker
    without tls=.

    \b
    Example, in jobs.py:
      from garivini import Client, Worker
      worker = Worker(Client("sqlite:///garivini.db"), ["127.0.0.1:4730"])

    \b
      @worker.function("hello")
      def hello(job):
          print("Hello", job.arg.decode())

    \b
    Then:
      garivini worker jobs.py
      garivini insert hello world
    """
    speaker = Speaker()
    level = None if log_jobs == "off" else logging.getLevelNamesMapping()[log_jobs.upper()]
    job_log = JobLog(level=level, tracebacks=log_tracebacks)
    found = options.configuration(click.get_current_context())

    when = ReplaceWhen(max_jobs, max_memory, reload)

    def child_process(child: SupervisedChild) -> None:
        settings.choose(found)
        joblog.choose(job_log)
        child.replace_when = when
        run_child(module, child, Selection(only, exclude), tls, speaker)

    supervisor = Supervisor(child_process, processes or (1 if reload else usable_cores()), drain=drain)
    sys.exit(supervisor.run())
