"""Many queues, each with what its seed brings upon it. ``SEED=123 pytest tests/simulation`` replays one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.ledger import Ledger
from tests.simulation.scenario import Scenario, draw
from tests.simulation.simulation import simulate

ROOT: Final = Path(__file__).parents[2]
CHUNK: Final = 200

_one: Final = os.environ.get("SEED")
FEW: Final = [int(_one)] if _one else list(range(8))
MANY: Final = [] if _one else [range(start, start + CHUNK) for start in range(0, 2000, CHUNK)]
#: All but the first ones are for a soak.
PARTS: Final = [*MANY[:2], *(pytest.param(seeds, marks=pytest.mark.soak) for seeds in MANY[2:])]


def check(scenario: Scenario) -> Ledger:
    """Run a scenario and fail with all that is needed to see why."""
    ledger = simulate(scenario)
    if ledger.broken:
        trace = [f"{time:.3f} {what} {details}" for time, what, *details in ledger.trace]
        report = ["", *ledger.broken[:5], "", str(scenario), "", *trace[-300:]]
        pytest.fail("\n".join(report), pytrace=False)
    return ledger


def digest(seeds: Sequence[int]) -> str:
    """Return a digest of all that happens with these seeds."""
    return sha256(repr([simulate(draw(seed)).trace for seed in seeds]).encode()).hexdigest()


def test_the_protocol_holds_for_some_seeds() -> None:
    for seed in FEW:
        check(draw(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", PARTS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_the_protocol_holds(seeds: range) -> None:
    faults = duplicates = 0
    for seed in seeds:
        ledger = check(draw(seed))
        faults += len(ledger.faults)
        duplicates += ledger.duplicates().total()
    # Else nothing has been put to the test.
    assert faults > CHUNK
    assert duplicates > 0


@pytest.mark.slow
def test_a_seed_brings_the_same_things_each_time() -> None:
    assert digest(range(5)) == digest(range(5))
    assert digest([1]) != digest([2])


@pytest.mark.slow
def test_a_seed_brings_the_same_things_in_each_process() -> None:
    command = "from tests.simulation.test_simulation import digest; print(digest([*range(10), 84, 364, 427]))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", command],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        ).stdout
        for hashing in ("1", "2")
    }
    assert len(digests) == 1
