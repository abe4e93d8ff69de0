"""CPU time per drained job of two source trees: ``python -m tests.measure_trees OTHER_TREE``.

The trees take turns, so that a change of the machine's speed affects both. Compare within a run only.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from tests.processes import command, until
from tests.servers import embedded
from tests.sql_servers import SERVERS

_OURS: Final = Path(__file__).parent.parent
#: Runs with each tree, so it uses only calls that every version has.
_INSERT: Final = """
import os
from garivini import Client
with Client(os.environ["GARIVINI_DB"]) as client:
    for start in range(0, int(os.environ["MEASURED_JOBS"]), 1000):
        client.insert_jobs([["f", None, None, b"x" * 100]] * 1000)
"""
#: The module of the worker. Its process writes a file when it has run all jobs.
_WORKER: Final = """
import os
from pathlib import Path
from garivini import Worker

worker = Worker()
left = int(os.environ["MEASURED_JOBS"])


@worker.function("f")
async def f(job):
    global left
    left -= 1
    if not left:
        Path("done").touch()
"""


def drain(tree: Path, url: str, address: str, jobs: int) -> float:
    """Drain jobs with the programs of a tree; return their milliseconds of CPU time per job."""
    environment = {
        "PYTHONPATH": str(tree / "src"),
        "GARIVINI_DB": url,
        "GARIVINI_JOB_SERVERS": address,
        "MEASURED_JOBS": str(jobs),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "measured.py").write_text(_WORKER)
        for words in (["-m", "garivini", "db", "upgrade"], ["-c", _INSERT]):
            subprocess.run(
                [sys.executable, *words],
                check=True,
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                cwd=folder,
            )
        before = _children()
        with (
            command(folder, "run", "queue-runner", **environment) as roles,
            command(folder, "worker", "measured:worker", "--processes", "1", **environment) as worker,
        ):
            until((folder / "done").exists)
            worker.stop()
            roles.stop()
        return (_children() - before) * 1000 / jobs


def _children() -> float:
    """Return the seconds of CPU time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@click.command()
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--jobs", type=click.IntRange(1000), default=20_000, show_default=True, help="Per drain.")
@click.option("--server", type=click.Choice(["sqlite", *SERVERS]), default="sqlite", show_default=True)
def main(other: Path, rounds: int, jobs: int, server: str) -> None:
    """Drain plain jobs with the programs of this tree and of the tree OTHER in turn."""
    jobs -= jobs % 1000
    trees = {"this": _OURS, "other": other.absolute()}
    taken: dict[str, list[float]] = {name: [] for name in trees}
    with ExitStack() as stack:
        address = stack.enter_context(embedded())
        new_url = _urls(server, stack)
        for number in range(rounds):
            for name in sorted(trees, reverse=bool(number % 2)):
                taken[name].append(drain(trees[name], new_url(), address, jobs))
    ours, theirs = (statistics.median(taken[name]) for name in ("this", "other"))
    ratios = [a / b for a, b in zip(taken["this"], taken["other"], strict=True)]
    click.echo(
        f"{server}, {rounds} rounds of {jobs:,} jobs, median CPU ms per job: this {ours:.3f}, "
        f"other {theirs:.3f}, ratio {ours / theirs:.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
    )


def _urls(server: str, stack: ExitStack) -> Callable[[], str]:
    """Return a function that returns the URL of a new database."""
    if server != "sqlite":
        return stack.enter_context(SERVERS[server]()).create_database
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return lambda: f"sqlite:///{folder}/{len([*folder.glob('*.db')])}.db"


if __name__ == "__main__":
    main()
