"""The results of the bench: figures beside their baselines, and whether every job was delivered. No I/O."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

#: Names of figures in milliseconds. All others are jobs per second.
IN_MS: Final = frozenset({"p50", "p99", "max", "last"})


@dataclass(frozen=True, slots=True)
class DeliveryCheck:
    """Whether the jobs of some rounds were delivered."""

    jobs: int = 0
    #: Jobs that ran, each counted once.
    ran: int = 0
    #: Starts after the first one of a job.
    duplicates: int = 0
    #: Inserted jobs that did not run, and are missing from the table.
    lost: int = 0
    #: Jobs that ran or are in the table, but were never inserted.
    unexpected: int = 0
    #: Jobs that ran and are still in the table, or that are in a table that should be empty.
    left: int = 0

    @property
    def right(self) -> bool:
        """Whether each job has ended. A duplicate is not a fault: a job runs at least once."""
        return not (self.lost or self.unexpected or self.left)

    def __add__(self, other: "DeliveryCheck") -> "DeliveryCheck":
        return DeliveryCheck(
            self.jobs + other.jobs,
            self.ran + other.ran,
            self.duplicates + other.duplicates,
            self.lost + other.lost,
            self.unexpected + other.unexpected,
            self.left + other.left,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the check as a JSON object."""
        counts = ("jobs", "ran", "duplicates", "lost", "unexpected", "left")
        return {**{name: getattr(self, name) for name in counts}, "right": self.right}


def check_delivery(
    inserted: Iterable[int], ran: Iterable[int], standing: Iterable[int], *, may_stand: bool = False
) -> DeliveryCheck:
    """Compare the inserted jobs with those that ran and those in the table.

    Args:
        inserted: ids that were acknowledged.
        ran: one id per start.
        standing: ids in the table after the round.
        may_stand: whether a job that has not run may be in the table, as at the end of a period.

    """
    wanted, rows, runs = set(inserted), set(standing), Counter(ran)
    began = wanted & runs.keys()
    waiting = (wanted & rows) - began if may_stand else set()
    return DeliveryCheck(
        jobs=len(wanted),
        ran=len(began),
        duplicates=sum(runs[jobid] - 1 for jobid in began),
        lost=len(wanted - began - waiting),
        unexpected=len((runs.keys() | rows) - wanted),
        left=len((wanted & rows) - waiting),
    )


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The figures of one side, Garivini or the baseline, in one round."""

    values: dict[str, float]
    delivery: DeliveryCheck
    #: CPU seconds of each part per 1,000 jobs, if the system reports them.
    cpu: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: its values in all rounds of both sides."""

    name: str
    #: ``jobs/s`` or ``ms``.
    unit: str
    ours: list[float]
    floor: list[float]

    @property
    def ratio(self) -> float:
        """Garivini's median divided by the median of the baseline."""
        return _by(median(self.ours), median(self.floor))

    @property
    def ratios(self) -> tuple[float, float]:
        """The smallest and the largest ratio of a round."""
        found = [_by(ours, floor) for ours, floor in zip(self.ours, self.floor, strict=True)]
        return min(found), max(found)

    def as_dict(self) -> dict[str, Any]:
        """Return the figure as a JSON object."""
        return {
            "name": self.name,
            "unit": self.unit,
            "better": "lower" if self.unit == "ms" else "higher",
            "ours": {"median": median(self.ours), "rounds": self.ours},
            "floor": {"median": median(self.floor), "rounds": self.floor},
            "ratio": self.ratio,
            "ratio_range": list(self.ratios),
        }


def _by(ours: float, floor: float) -> float:
    return ours / floor if floor else math.inf


@dataclass(slots=True)
class Measure:
    """A measure that was taken: its rounds."""

    name: str
    ours: list[RoundResult] = field(default_factory=list)
    floor: list[RoundResult] = field(default_factory=list)
    #: By side: the check of all its rounds, including the first one, which is not measured.
    deliveries: dict[str, DeliveryCheck] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether all jobs of both sides were delivered."""
        return all(delivery.right for delivery in self.deliveries.values())

    @property
    def figures(self) -> list[Figure]:
        """The figures of this measure; none if it was not completed."""
        if not self.ours or len(self.ours) != len(self.floor):
            return []
        return [
            Figure(
                name,
                "ms" if name in IN_MS else "jobs/s",
                [result.values[name] for result in self.ours],
                [result.values[name] for result in self.floor],
            )
            for name in self.ours[0].values
        ]

    @property
    def cpu(self) -> dict[str, dict[str, float]]:
        """Median CPU seconds per 1,000 jobs by side and part; empty if the system does not report them."""
        sides = {"ours": self.ours, "floor": self.floor}
        return {
            side: {part: median([one.cpu[part] for one in results]) for part in results[0].cpu}
            for side, results in sides.items()
            if results and results[0].cpu
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the measure as a JSON object."""
        return {
            "name": self.name,
            "figures": [figure.as_dict() for figure in self.figures],
            "cpu_seconds_per_1000_jobs": self.cpu,
            "delivery": {side: delivery.as_dict() for side, delivery in self.deliveries.items()},
        }
