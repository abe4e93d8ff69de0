"""Run the tests on each version and write the tables of the documentation.

``python -m tests.versions [NAME …]`` runs those versions, or all; rows of other versions stay. It fails if a
version is not installed or a test fails.
"""

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from tests.versions.environment import environment
from tests.versions.known import VERSIONS, Kind, Version
from tests.versions.page import write
from tests.versions.results import Results
from tests.versions.suites import SELECTED, TABLES, Run, Table

_ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = _ROOT / "docs/reference/versions.md"
_LOGS: Final = _ROOT / ".venv/versions"
#: Seconds until a run is given up: many times what it takes.
_LIMIT: Final = 7200
#: The program that knows its full number.
_PROGRAMS: Final[dict[Kind, str]] = {
    "mysql": "mysqld",
    "mariadb": "mariadbd",
    "postgresql": "postgres",
    "gearmand": "gearmand",
}


def results(version: Version, table: Table) -> Results:
    """Run the tests of a table on a version.

    Raises:
        RuntimeError: the version is not installed.
    """
    python = environment(version) if version.kind == "python" else sys.executable
    found = Results()
    for number, run in enumerate(table.runs):
        report = _LOGS / f"{version.name}-{number}.xml"
        report.unlink(missing_ok=True)
        started = time.monotonic()
        _run(python, version, run, report)
        click.echo(f"{version.name}: {time.monotonic() - started:.0f} s: {report.with_suffix('.log')}")
        found.add(run, report)
    return found


def _run(python: str, version: Version, run: Run, report: Path) -> None:
    words = ["-q", "--durations=10", "-k", SELECTED[version.kind], f"--junitxml={report}", *run.words]
    with report.with_suffix(".log").open("wb") as output:
        try:
            subprocess.run(
                [python, "-m", "pytest", *words],
                cwd=_ROOT,
                env={**os.environ, "GARIVINI_TESTS_SERVERS": version.name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=_LIMIT,
            )
        except subprocess.TimeoutExpired:
            click.echo(f"{version.name}: given up after {_LIMIT} s", err=True)


def full_number(version: Version) -> str:
    """Return the number that the program of a version prints."""
    program = version.program(_PROGRAMS.get(version.kind, version.name.replace("-", "")))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout.replace(str(version.folder), ""))
    assert found, done
    return found[0]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(VERSIONS)))
def main(names: tuple[str, ...]) -> None:
    """Run the tests on the named versions, or all; write the tables."""
    _LOGS.mkdir(parents=True, exist_ok=True)
    unsound = []
    for version in [VERSIONS[name] for name in names or VERSIONS]:
        (table,) = (table for table in TABLES if version.kind in table.kinds)
        try:
            found = results(version, table)
        except RuntimeError as error:
            click.echo(str(error), err=True)
            unsound.append(version.name)
            continue
        cells = [found.cell(column) for column in table.columns]
        write(_PAGE, table, version, [full_number(version), *cells, f"{datetime.now(UTC):%Y-%m-%d}"])
        click.echo(f"{version.name}: {', '.join(cells)}")
        for name in found.failed:
            click.echo(f"{version.name}: failed: {name}")
        if not found.sound:
            unsound.append(version.name)
    if unsound:
        sys.exit(f"failed, or not complete: {', '.join(unsound)}")


if __name__ == "__main__":
    main()
