"""Run the suites on each version and write the table of the documentation.

``python -m tests.versions [NAME …]`` runs those versions, or all; rows of other versions stay. It fails if a
version is not installed or a test fails.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from tests.versions.known import VERSIONS, Version

_ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = _ROOT / "docs/reference/versions.md"
_LOGS: Final = _ROOT / ".venv/versions"

#: The table's columns, and where their tests are.
_SUITES: Final[dict[str, tuple[str, ...]]] = {
    "conformance": ("tests/store/conformance",),
    "store, plans, locks, errors": ("tests/store", "--ignore=tests/store/conformance"),
    "faults of a keeper": ("tests/test_keeper_faults.py",),
    "end to end": ("tests/kills/test_faults.py::test_a_database_that_goes_away_under_load_loses_nothing",),
}
_HEAD: Final = ("version", *_SUITES)
#: Which tests run on a kind of server; the other kinds are the machine's and are tested anyway.
_SELECTED: Final = {
    "mysql": "not sqlite and not postgresql",
    "mariadb": "not sqlite and not postgresql",
    "postgresql": "not sqlite and not mysql and not mariadb",
}
_TITLES: Final = {"mysql": "MySQL", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}
_DAEMONS: Final = {"mysql": "mysqld", "mariadb": "mariadbd", "postgresql": "postgres"}


def run(version: Version) -> tuple[list[str], bool]:
    """Run every suite on a version; return its row of the table, and whether all tests passed.

    Raises:
        RuntimeError: the version is not installed.
    """
    cells = [f"{_TITLES[version.kind]} {_full_number(version)}"]
    sound = True
    for number, tests in enumerate(_SUITES.values()):
        log = _LOGS / f"{version.name}-{number}.log"
        words = [sys.executable, "-m", "pytest", "-q", "-m", "servers and not soak"]
        with log.open("wb") as output:
            done = subprocess.run(
                [*words, "-k", _SELECTED[version.kind], *tests],
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
        cells.append(f"{passed} of {passed + failed}")
        click.echo(f"{version.name}: {'; '.join(tests)}: {cells[-1]} passed ({log})")
        sound &= done.returncode == 0
    return cells, sound


def _full_number(version: Version) -> str:
    program = version.program(_DAEMONS[version.kind])
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", said.replace(str(version.folder), ""))
    assert found, said
    return found[0]


def write(rows: list[list[str]]) -> None:
    """Put rows into the page's table, in the place of those of the same kind and major version."""
    text = _PAGE.read_text(encoding="utf-8")
    start, end = text.index("| version"), text.rindex("|\n") + len("|\n")
    old = [[cell.strip() for cell in line.strip("|").split("|")] for line in text[start:end].splitlines()[2:]]
    known = {_series(row[0]): row for row in [*old, *rows]}
    lines = [_HEAD, ["---"] * len(_HEAD), *(known[series] for series in sorted(known))]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    _PAGE.write_text(text[:start] + table + text[end:], encoding="utf-8")
    click.echo(table)


def _series(version: str) -> tuple[str, tuple[int, ...]]:
    """Return kind and the numbers that do not change within a series."""
    kind, number = version.split()
    return kind, tuple(int(part) for part in number.split(".")[: 1 if kind == "PostgreSQL" else 2])


@click.command()
@click.argument(
    "names", nargs=-1, type=click.Choice([name for name in VERSIONS if name.split("-")[0] in _TITLES])
)
def main(names: tuple[str, ...]) -> None:
    """Run the suites on the named versions, or all; write the table."""
    _LOGS.mkdir(parents=True, exist_ok=True)
    chosen = [VERSIONS[name] for name in names] or [v for v in VERSIONS.values() if v.kind in _TITLES]
    failed = []
    for version in chosen:
        try:
            cells, sound = run(version)
        except RuntimeError as error:
            click.echo(str(error), err=True)
            sound = False
        else:
            write([cells])
        if not sound:
            failed.append(version.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
