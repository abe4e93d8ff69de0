"""Unique keys with rules, under inserts of eight processes."""

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from garivini import Client, ConflictError, Unique
from garivini.model.job import Job
from garivini.model.state import State
from garivini.store.database import Database, Lane

pytestmark = pytest.mark.servers

_R = TypeVar("_R")

PROCESSES = 8
KEYS = 5
#: Makes processes that have imported these modules already.
PROCESSES_OF = multiprocessing.get_context("forkserver")
PROCESSES_OF.set_forkserver_preload(["garivini.client", "psycopg", "pymysql", "sqlalchemy", __name__])
#: By name of the rule, the delay of its inserts.
DELAYS = {"debounce": 1, "one_more": 0}
MAX_DELAY = 3


def write(url: str, on_duplicate: Any, process: int, inserts: int) -> None:
    """Insert with each key in turn; the argument is the process and the number of the insert."""
    with Client(url) as client:
        for number in range(inserts):
            key = Unique(f"k{number % KEYS}", on_duplicate=on_duplicate, max_delay=MAX_DELAY)
            repeated(partial(client.insert_job, "f", f"{process} {number}", DELAYS[on_duplicate], unique=key))


def repeated(call: Callable[[], _R]) -> _R:
    """Call until it succeeds: on a busy machine a writer of SQLite may wait for its one lock in vain."""
    while True:
        try:
            return call()
        except ConflictError:
            continue


def runs_until_empty(database: Database, writers: list[Any]) -> dict[str, list[tuple[float, str]]]:
    """Run jobs until the writers have ended and none is left; return times and arguments by key."""
    runs: dict[str, list[tuple[float, str]]] = defaultdict(list)
    while True:
        ended = not any(writer.is_alive() for writer in writers)
        lane = Lane("f", State.WAITING, "normal", 0)
        claimed: list[Job] = repeated(partial(database.claim, lane, limit=KEYS, lease=60))
        for job in claimed:
            assert job.uniqkey is not None
            runs[job.uniqkey].append((job.since, job.arg.decode()))
        assert len({job.uniqkey for job in claimed}) == len(claimed)
        repeated(partial(database.complete, [job.jobid for job in claimed]))
        if ended and not claimed and not database.jobs(limit=1):
            return runs
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqlite", "mariadb", "postgresql"])
@pytest.mark.parametrize("rule", ["debounce", "one_more"])
@pytest.mark.parametrize(
    "inserts", [160, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_inserts_of_eight_processes_lose_no_last_argument(
    urls: Callable[[str], str], name: str, rule: str, inserts: int
) -> None:
    url = urls(name)
    with Client(url) as client:
        (database,) = client.shards
        each = inserts // PROCESSES
        writers = [PROCESSES_OF.Process(target=write, args=(url, rule, n, each)) for n in range(PROCESSES)]
        for writer in writers:
            writer.start()
        runs = runs_until_empty(database, writers)
        assert [writer.exitcode for writer in writers] == [0] * PROCESSES
        assert set(runs) == {f"k{number}" for number in range(KEYS)}
        for key, found in runs.items():
            number = int(found[-1][1].split()[1])
            # The last run has the last argument that one of the processes has given the key.
            assert number == max(n for n in range(each) if f"k{n % KEYS}" == key)
            assert len({arg for _, arg in found}) == len(found), "an argument ran twice"
            if rule == "debounce":
                between = [after - before for (before, _), (after, _) in pairwise(found)]
                assert all(seconds >= DELAYS[rule] for seconds in between)
        assert not database.promote_successors()
