"""The table of tested versions, from what pytest reports."""

from pathlib import Path
from typing import Final

import pytest

from tests.versions.known import VERSIONS
from tests.versions.page import head, with_row
from tests.versions.results import Results
from tests.versions.suites import DATABASES, TABLES, Run, Table

REPORT: Final = """\
<testsuites><testsuite>
<testcase classname="tests.store.conformance.test_claim" name="test_a[postgresql]"/>
<testcase classname="tests.store.test_server" name="test_b"><failure message="no"/></testcase>
<testcase classname="tests.store.test_server" name="test_c"><error message="no"/></testcase>
<testcase classname="tests.store.test_server" name="test_d"><skipped message="no"/></testcase>
<testcase classname="tests.store.test_server.TestAll" name="test_e"/>
</testsuite></testsuites>
"""


@pytest.fixture
def run() -> Run:
    return Run(
        "servers", {"tests/store/conformance": "one", "tests/store": "all", "tests/test_cli.py": "more"}
    )


def test_results_count_by_the_narrowest_folder_and_name_what_failed(tmp_path: Path, run: Run) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    found = Results()
    found.add(run, report)
    assert [found.cell(column) for column in ("one", "all", "more")] == ["1 of 1", "1 of 3", "not run"]
    assert found.failed == ["tests.store.test_server::test_b", "tests.store.test_server::test_c"]
    assert not found.sound


def test_results_of_a_run_that_left_no_report_are_not_complete(tmp_path: Path, run: Run) -> None:
    found = Results()
    found.add(run, tmp_path / "none.xml")
    assert found.cell("one") == "not complete"
    assert not found.sound


def test_run_names_a_folder_within_another_one_once(run: Run) -> None:
    assert run.words == (
        *("-n", "2", "--dist", "worksteal", "-m", "servers and not soak"),
        *("tests/store", "tests/test_cli.py"),
    )


def test_with_row_replaces_the_row_of_its_series_and_shows_what_was_not_run() -> None:
    columns = head(DATABASES)
    rows = [columns, ["---"] * len(columns), ["PostgreSQL 13.1", *["7 of 7"] * (len(columns) - 1)]]
    before = "# Page\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows) + "\nMore.\n"
    cells = ["18.6", *["8 of 8"] * (len(columns) - 2), "2026-01-02"]
    once = with_row(before, DATABASES, VERSIONS["postgresql-18"], cells)
    lines = once.splitlines()
    assert lines[0] == "# Page"
    assert lines[-1] == "More."
    found = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert found["PostgreSQL 18.6"].endswith("8 of 8 | 2026-01-02 |")
    assert found["PostgreSQL 13.1"].count("7 of 7") == len(columns) - 1
    assert found["MySQL 9.7"].count("not run") == len(columns) - 1
    later = with_row(once, DATABASES, VERSIONS["postgresql-18"], ["18.7", *cells[1:]])
    assert "PostgreSQL 18.7" in later
    assert "PostgreSQL 18.6" not in later


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kinds[0])
def test_the_tables_select_files_that_exist_and_are_on_the_page(table: Table) -> None:
    assert all(Path(path).exists() for run in table.runs for path in run.columns)
    assert f"| {' | '.join(head(table))} |\n" in Path("docs/reference/versions.md").read_text(
        encoding="utf-8"
    )
