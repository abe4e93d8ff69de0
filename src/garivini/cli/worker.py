"""``garivini worker``: runs the functions of a module, in several processes."""

import logging
import ssl
import sys
from typing import Literal

import click

from garivini import settings
from garivini.cli import options
from garivini.cli.cores import usable_cores
from garivini.cli.loading import BrokenModuleError, Speaker, load, user_traceback
from garivini.cli.tls import warn_of_servers
from garivini.errors import UsageError
from garivini.keeper.supervised_child import CONFIGURATION_ERROR, SupervisedChild
from garivini.worker import joblog
from garivini.worker.joblog import JobLog
from garivini.worker.supervisor import Supervisor


@click.command()
@click.argument("module")
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1, 1024),
    default=usable_cores,
    show_default="one per usable core",
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
@options.tls
@options.logs
def worker(
    module: str,
    processes: int,
    drain: float,
    log_jobs: Literal["off", "debug", "info"],
    log_tracebacks: bool,
    tls: ssl.SSLContext | None,
) -> None:
    """Run the functions that MODULE registers on a Worker.

    MODULE is an importable name such as shop.jobs, or a file such as jobs.py. MODULE:NAME selects one of
    several Workers. After the first SIGTERM or ^C, only jobs that have started run on, to their end. A second
    signal ends all processes immediately. A process that dies is restarted, and its jobs run again. If the
    module cannot be imported or has no Worker with a function, the exit status is 78, and no process is
    restarted. The --tls options apply to a Worker without tls=.

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

    def child_process(child: SupervisedChild) -> None:
        settings.choose(found)
        joblog.choose(job_log)
        _child(module, child, tls, speaker)

    supervisor = Supervisor(child_process, processes, drain=drain)
    sys.exit(supervisor.run())


def _child(target: str, child: SupervisedChild, tls: ssl.SSLContext | None, speaker: Speaker) -> None:
    try:
        found = load(target)
    except UsageError as error:
        speaker.report(str(error))
        sys.exit(CONFIGURATION_ERROR)
    except BrokenModuleError as error:
        speaker.report(f"{target} cannot be imported\n{user_traceback(error.error)}")
        sys.exit(CONFIGURATION_ERROR)
    if tls:
        found.tls = found.tls or tls
        warn_of_servers(found.job_servers, found.tls)
    found.run(child)
