"""The admissions of a QueueRunner: each continues where the last one of its lane ended."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from garivini.model.job import Job
from garivini.model.turns import Place
from garivini.roles.held_back import HeldBack
from garivini.store.database import Database, Lane


class Admissions:
    """Claims jobs of functions with rules, for the database's thread.

    Args:
        database: has the jobs.
        held_back: records the functions whose rules hold jobs back.
        monotonic: returns the monotonic time.

    """

    def __init__(self, database: Database, held_back: HeldBack, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._held_back = held_back
        self._monotonic = monotonic
        #: By function and priority, how far the admission has come.
        self._places: dict[tuple[str, str], Place] = defaultdict(Place)

    def admit(self, lane: Lane, *, limit: int, **options: Any) -> list[Job]:
        """Claim jobs of a lane; ``options``: see ``store.admission.admit``."""
        key = (lane.funcname, lane.priority)
        admitted = self._database.admit(lane, limit=limit, place=self._places[key], **options)
        jobs, held_back, self._places[key] = admitted
        self._held_back.claimed(lane.funcname, jobs=len(jobs), held_back=held_back, now=self._monotonic())
        return jobs

    def head(self, lane: Lane) -> int | None:
        """Return the id of the next job that a claim of a lane would take, or None."""
        return self._database.head(lane, self._places[lane.funcname, lane.priority])
