"""``garivini dev``: everything for development."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from types import FrameType

import click

from garivini.cli import options
from garivini.cli.output import note, say
from garivini.cli.project_files import project_folder, python_files
from garivini.errors import GariviniError
from garivini.gearman.blocking import Client
from garivini.gearman.servers import parse_addresses
from garivini.store.shards import Shards
from garivini.worker.file_changes import Stamp, stamps

#: Seconds between two checks of the files.
_CHECK_FILES = 0.5
#: Seconds between two checks of whether the server listens.
_CHECK_SERVER = 0.05


@click.command()
@click.argument("module", required=False)
@options.databases
@options.job_servers
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes of the worker.",
)
@click.pass_context
def dev(
    ctx: click.Context, module: str | None, dbs: list[str], job_servers: tuple[str, ...], processes: int
) -> None:
    """Run everything for development: a Gearman server, a QueueRunner, a Controller and a worker.

    It creates missing tables and runs until ^C. With MODULE (a name or a file, as for garivini worker) it
    runs the functions of the module, and restarts the worker when a Python file beside the module changes.

    \b
    Examples:
      garivini dev
      garivini dev jobs.py
    """
    with closing(Shards(dbs)) as shards:
        for database in shards:
            database.upgrade()
            say(f"{database.where} is ready")
    environment = {
        **os.environ,
        "GARIVINI_DB": " ".join(dbs),
        "GARIVINI_JOB_SERVERS": " ".join(job_servers),
        "GARIVINI_TLS_CA": "none",  # whatever the settings are: the embedded server has no TLS
    }
    if config := ctx.find_root().params.get("config"):
        environment["GARIVINI_CONFIG"] = config
    address = parse_addresses(job_servers)[0]
    sys.exit(_Dev(environment, address, module, processes).run())


class _Dev:
    def __init__(self, environment: dict[str, str], address: str, module: str | None, processes: int) -> None:
        self._environment = environment
        self._address = address
        self._module = module
        self._processes = processes
        self._stopping = False

    def run(self) -> int:
        """Run until a signal; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        roles = self._start("run")
        worker = None
        try:
            if not self._wait_for(roles):
                return roles.returncode or 0
            say(f"Gearman server at {self._address}; try: garivini insert FUNCTION ARGUMENT")
            files = self._files()  # read before the worker reads them, so that no change is missed
            worker = self._start_worker()
            while not self._stopping:
                time.sleep(_CHECK_FILES)
                if roles.poll() is not None:
                    return roles.returncode
                if worker is not None and worker.poll() is not None:
                    note("the worker has ended; it is restarted when a file changes")
                    worker = None
                now = self._files()
                if now != files:
                    files = now
                    say("a file has changed: restarting the worker")
                    _end(worker)
                    worker = self._start_worker()
            return 0
        finally:
            _end(worker)
            _end(roles)

    def _wait_for(self, roles: "subprocess.Popen[bytes]") -> bool:
        """Wait until the embedded server answers; return False if it has ended, or at a signal."""
        while not self._stopping and roles.poll() is None:
            # Another server at this address would answer too, but with its own pid.
            with suppress(GariviniError), Client(self._address, timeout=1) as client:
                if client.command(b"getpid", block=False) == [b"OK %d" % roles.pid]:
                    return True
            time.sleep(_CHECK_SERVER)
        return False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        # The child gets its own session, so ^C reaches only this process, which stops the worker first.
        return subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "garivini", *arguments], env=self._environment, start_new_session=True
        )

    def _start_worker(self) -> "subprocess.Popen[bytes] | None":
        if self._module is None:
            return None
        return self._start("worker", self._module, "-p", str(self._processes))

    def _files(self) -> dict[str, Stamp]:
        """Return the stamp of each Python file beside the module."""
        if self._module is None:
            return {}
        return stamps(python_files(project_folder(self._module)))


def _end(process: "subprocess.Popen[bytes] | None") -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
