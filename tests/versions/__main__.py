"""Run the suites on each version and write the tables of the documentation.

``python -m tests.versions [NAME …]`` runs those versions, or all; rows of other versions stay. It fails if a
version is not installed or a test fails.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from tests.versions.environment import environment
from tests.versions.known import VERSIONS, Kind, Version

_ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = _ROOT / "docs/reference/versions.md"
_LOGS: Final = _ROOT / ".venv/versions"


@dataclass(frozen=True)
class Table:
    """A table of the page: a row per version, and a column per suite with the words for pytest."""

    kinds: tuple[Kind, ...]
    suites: Mapping[str, tuple[str, ...]]


#: What runs on a version: not the long runs.
_SERVERS: Final = ("-m", "servers and not soak")
_TABLES: Final = (
    Table(
        ("mysql", "mariadb", "postgresql"),
        {
            "conformance": (*_SERVERS, "tests/store/conformance"),
            "store, plans, locks, errors": (*_SERVERS, "tests/store", "--ignore=tests/store/conformance"),
            "faults of a keeper": (*_SERVERS, "tests/test_keeper_faults.py"),
            "end to end": (
                *_SERVERS,
                "tests/kills/test_faults.py::test_a_database_that_goes_away_under_load_loses_nothing",
            ),
        },
    ),
    Table(
        ("gearmand",),
        {
            "protocol": (*_SERVERS, "tests/gearman"),
            "other languages": (*_SERVERS, "tests/peers"),
            "roles and lost connections": (
                *_SERVERS,
                *("tests/test_controller.py", "tests/test_injector_faults.py", "tests/test_lost_links.py"),
            ),
            "kills": (*_SERVERS, "tests/kills/test_gearmand.py", "tests/test_controller_load.py"),
        },
    ),
    Table(
        ("python",),
        {
            "all that needs no server": ("-n", "2", "-m", "not servers and not soak and not alone", "tests"),
            "drivers of databases": (*_SERVERS, "tests/store/conformance"),
        },
    ),
)
#: Which tests run on a kind; the others do without it, and `make test` runs them.
_SELECTED: Final[Mapping[Kind, str]] = {
    "mysql": "not sqlite and not postgresql",
    "mariadb": "not sqlite and not postgresql",
    "postgresql": "not sqlite and not mysql and not mariadb",
    "gearmand": "not embedded and not sqlite",
    "python": "",
}
_TITLES: Final[Mapping[Kind, str]] = {
    "mysql": "MySQL",
    "mariadb": "MariaDB",
    "postgresql": "PostgreSQL",
    "gearmand": "gearmand",
    "python": "Python",
}
#: The program that knows its full number.
_PROGRAMS: Final[Mapping[Kind, str]] = {
    "mysql": "mysqld",
    "mariadb": "mariadbd",
    "postgresql": "postgres",
    "gearmand": "gearmand",
}


def run(version: Version, table: Table) -> tuple[list[str], bool]:
    """Run every suite on a version; return its row of the table, and whether all tests passed.

    Raises:
        RuntimeError: the version is not installed.
    """
    cells = [f"{_TITLES[version.kind]} {_full_number(version)}"]
    python = environment(version) if version.kind == "python" else sys.executable
    sound = True
    for number, words in enumerate(table.suites.values()):
        log = _LOGS / f"{version.name}-{number}.log"
        with log.open("wb") as output:
            done = subprocess.run(
                [python, "-m", "pytest", "-q", "-k", _SELECTED[version.kind], *words],
                cwd=_ROOT,
                env={**os.environ, "GARIVINI_TESTS_SERVERS": version.name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        ends = re.findall(r"^.*\d+ (?:passed|failed|error).* in .*$", log.read_text(errors="replace"), re.M)
        counts = {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", ends[-1] if ends else "")}
        failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
        passed = counts.get("passed", 0)
        cells.append(f"{passed} of {passed + failed + counts.get('skipped', 0)}")
        click.echo(f"{version.name}: {' '.join(words)}: {cells[-1]} passed ({log})")
        sound &= done.returncode == 0
    return cells, sound


def _full_number(version: Version) -> str:
    program = version.program(_PROGRAMS.get(version.kind, version.name.replace("-", "")))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout.replace(str(version.folder), ""))
    assert found, done
    return found[0]


def write(rows: list[list[str]], table: Table) -> None:
    """Put rows into a table of the page, in the place of those of the same kind and series."""
    head = ("version", *table.suites)
    text = _PAGE.read_text(encoding="utf-8")
    start = text.index(f"| {' | '.join(head)} |\n")
    end = text.find("\n\n", start) + 1 or len(text)
    old = [[cell.strip() for cell in line.strip("|").split("|")] for line in text[start:end].splitlines()[2:]]
    known = {_series(row[0]): row for row in [*old, *rows]}
    lines = [head, ["---"] * len(head), *(known[series] for series in sorted(known))]
    written = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    _PAGE.write_text(text[:start] + written + text[end:], encoding="utf-8")
    click.echo(written)


def _series(version: str) -> tuple[str, tuple[int, ...]]:
    """Return kind and the numbers that do not change within a series."""
    kind, number = version.split()
    parts = {"PostgreSQL": 1, "gearmand": 3}.get(kind, 2)
    return kind, tuple(int(part) for part in number.split(".")[:parts])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(VERSIONS)))
def main(names: tuple[str, ...]) -> None:
    """Run the suites on the named versions, or all; write the tables."""
    _LOGS.mkdir(parents=True, exist_ok=True)
    failed = []
    for version in [VERSIONS[name] for name in names or VERSIONS]:
        (table,) = (table for table in _TABLES if version.kind in table.kinds)
        try:
            cells, sound = run(version, table)
        except RuntimeError as error:
            click.echo(str(error), err=True)
            sound = False
        else:
            write([cells], table)
        if not sound:
            failed.append(version.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
