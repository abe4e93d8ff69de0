"""``python -m tests.kills``: kill each role many times under load; exit with 1 if a promise is broken."""

import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from tests.kills.kill import FAULTS, PURE_ROLES, ROLES, Outcome, Report, percentile, run
from tests.sql_servers import SERVERS

#: Columns and their widths. "started twice" and "ended twice" count the runs beyond each job's first,
#: "stored twice" the jobs of a call that an Injector's death made be stored again;
#: "timed" the kills at which there was something to wait for.
_COLUMNS: Final = {
    "role": 18,
    "kills": 5,
    "jobs": 6,
    "lost": 4,
    "unexpected": 10,
    "in flight": 9,
    "started twice": 13,
    "ended twice": 11,
    "stored twice": 12,
    "unexplained": 11,
    "timed": 5,
    "first p50": 9,
    "p99": 5,
    "max": 5,
    "all p50": 7,
    "p99 ": 5,
    "max ": 5,
    "longest insert": 14,
}


@click.command()
@click.option(
    "--role",
    "roles",
    type=click.Choice(["all", *dict.fromkeys([*ROLES, *PURE_ROLES]), *FAULTS]),
    multiple=True,
    default=["all"],
)
@click.option(
    "--database",
    "databases",
    type=click.Choice([*SERVERS]),
    multiple=True,
    help="In place of SQLite; several make one queue, and the first is the one that fails.",
)
@click.option("--gearmand", is_flag=True, help="In place of the embedded server.")
@click.option("--pure", is_flag=True, help="Clients and workers know Gearman alone.")
@click.option("--kills", type=click.IntRange(1), default=50, show_default=True, help="Kills of each role.")
@click.option("--seed", default=1, show_default=True, help="Of the load and of the moments.")
@click.option("--keep", type=click.Path(path_type=Path), help="An empty folder for logs and histories.")
def main(
    roles: tuple[str, ...],
    databases: tuple[str, ...],
    gearmand: bool,
    pure: bool,
    kills: int,
    seed: int,
    keep: Path | None,
) -> None:
    """Kill each role many times under load and check that nothing is lost.

    Times are seconds from a kill, or from the return of a database, until the first, or all, of what it had
    halted started again.
    """
    click.echo(f"seed {seed}\n{line(_COLUMNS)}")
    sound = True
    every = (*(PURE_ROLES if pure else ROLES), *(FAULTS if databases else ()))
    for role in every if "all" in roles else roles:
        with ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-"))
            folder = (keep or Path(temporary)) / role
            folder.mkdir(parents=True)
            servers = [stack.enter_context(SERVERS[name]()) for name in databases]
            outcome = run(folder, [role], kills, seed, servers=servers, gearmand=gearmand, pure=pure)
        click.echo(row(outcome, outcome.reports[0]))
        sound = sound and outcome.verdict.sound
        if not outcome.verdict.sound:
            click.echo(outcome.verdict)
    sys.exit(0 if sound else 1)


def row(outcome: Outcome, report: Report) -> str:
    """Return a line of the table."""
    verdict = outcome.verdict
    cells: list[object] = [
        report.role,
        report.kills,
        verdict.acknowledged,
        len(verdict.lost),
        len(verdict.unexpected),
        report.in_flight,
        sum(verdict.started_again.values()),
        sum(verdict.ended_again.values()),
        sum(verdict.stored_again.values()),
        len(verdict.unexplained),
        len(report.first),
    ]
    for times in (report.first, report.all):
        cells += [f"{percentile(times, share):.2f}" if times else "-" for share in (0.5, 0.99, 1.0)]
    return line([*cells, f"{outcome.longest_insert:.2f}"])


def line(cells: Iterable[object]) -> str:
    """Return cells under each other: the first to the left, the others to the right."""
    first, *others = zip(cells, _COLUMNS.values(), strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)])


if __name__ == "__main__":
    main()
