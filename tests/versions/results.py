"""What a run of pytest has found, for the page."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree import ElementTree

from tests.versions.suites import Run

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]


@dataclass
class Results:
    """The outcomes of the tests on one version, per column of the page."""

    counts: dict[str, Counter[Outcome]] = field(default_factory=dict)
    #: The tests that failed.
    failed: list[str] = field(default_factory=list)
    #: Columns of runs that did not come to their end.
    incomplete: set[str] = field(default_factory=set)

    @property
    def sound(self) -> bool:
        """Whether all tests ran, and none failed."""
        return bool(self.counts) and not self.failed and not self.incomplete

    def add(self, run: Run, report: Path) -> None:
        """Add the outcomes of a run from pytest's file of them; if there is none, the run is not complete."""
        if not report.exists():
            self.incomplete |= set(run.columns.values())
            return
        for case in ElementTree.parse(report).iter("testcase"):
            outcome = _outcome(case)
            name = case.get("classname", "")
            self.counts.setdefault(run.column(name), Counter())[outcome] += 1
            if outcome == "failed":
                self.failed.append(f"{name}::{case.get('name')}")

    def cell(self, column: str) -> str:
        """Return the text of a column: how many tests passed of those that ran."""
        if column in self.incomplete:
            return "not complete"
        counts = self.counts.get(column, Counter())
        ran = counts["passed"] + counts["failed"]
        return f"{counts['passed']} of {ran}" if ran else "not run"


def _outcome(case: ElementTree.Element) -> Outcome:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"
